"""Tells a cluster what was made of its policies, so that `kubectl get cnp` shows it to who wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from ...store import Document
from ..supply.intake import Intake, PolicyFile

_LOOK_SECONDS = 1.0


class Cluster(Protocol):
    """`KubernetesStore`."""

    def judged(self, verdicts: Iterable[tuple[Document, str]]) -> None: ...


class PolicyStatus:
    """Looks at what was read last and tells `cluster` of what is new in it."""

    def __init__(self, cluster: Cluster, intake: Callable[[], Intake]) -> None:
        self._cluster = cluster
        self._intake = intake

    async def run(self) -> None:
        """Until it is cancelled."""
        last = Intake()
        while True:
            intake = self._intake()
            if intake is not last:
                new = [file for source, file in intake.files.items() if last.files.get(source) is not file]
                self._cluster.judged([(file.document, fault(file)) for file in new])
                last = intake
            await asyncio.sleep(_LOOK_SECONDS)


def fault(file: PolicyFile) -> str:
    """Everything that is wrong with a document, in a sentence; empty when nothing is."""
    errors = [problem for problem in file.parsed.problems if problem.is_error]
    return " | ".join(
        f"{f'{each.path}: ' if each.path else ''}{each.message}{f'; {each.hint}' if each.hint else ''}"
        for each in errors
    )
