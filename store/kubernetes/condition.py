"""Tells the authors of policies what was made of them: by the condition `Valid` in an object's status."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from ..content import Document
from ..errors import KubernetesError
from .access import Access
from .api import TROUBLE, AnswerError, Api
from .document import source_of
from .known import ExpiredError, Known
from .resource import CILIUM, CLUSTERWIDE

log = logging.getLogger("lockgate.store")

VALID = "Valid"
_GOOD = "Policy validation succeeded"
_LONGEST = 1000  # characters of a message
_SPREAD_SECONDS = 2.0  # the agents of all nodes come to the same verdict, and one of them is to write it
_PAUSE_SECONDS = 10.0  # after one could not be written
_WRITTEN = {each.kind: each for each in (CILIUM, CLUSTERWIDE)}
_PASSED_BY = (404, 409)  # gone, or changed meanwhile


class Conditions:
    """`known` is the collection of a kind, `current` the document that stands for a source now."""

    def __init__(
        self,
        access: Callable[[], Access],
        known: Callable[[str], Known],
        current: Callable[[str], Document | None],
    ) -> None:
        self._access = access
        self._known = known
        self._current = current
        self._verdicts: dict[str, tuple[Document, str]] = {}
        self._news = asyncio.Event()

    def judged(self, verdicts: Iterable[tuple[Document, str]]) -> None:
        """What is wrong with the policy in each document, in a sentence; empty when nothing is."""
        for document, fault in verdicts:
            self._verdicts[document.source] = document, fault
            self._news.set()

    async def run(self) -> None:
        """Until it is cancelled. What cannot be written is tried again, and does no harm."""
        told = ""
        while True:
            await self._news.wait()
            self._news.clear()
            await asyncio.sleep(_SPREAD_SECONDS * random.uniform(0.1, 1.0))
            try:
                await self._write()
                told = ""
            except (*TROUBLE, KubernetesError, ExpiredError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("kubernetes: conditions of policies cannot be written: %s", told)
                await asyncio.sleep(_PAUSE_SECONDS)
                self._news.set()

    async def _write(self) -> None:
        async with Api(self._access()) as api:
            for source, (document, fault) in list(self._verdicts.items()):
                place = self._place(source)
                if place is not None and self._current(source) == document:
                    known, key = place
                    told = known.objects[key]
                    conditions = told["metadata"].get("conditions") or []
                    if (wanted := _with(conditions, fault)) is not None:
                        metadata = {"resourceVersion": known.version_of(key)}
                        patch = {"metadata": metadata, "status": {"conditions": wanted}}
                        where = told["metadata"].get("namespace") or ""
                        try:
                            await api.write_status(known.resource, where, told["metadata"]["name"], patch)
                        except AnswerError as error:
                            if error.status not in _PASSED_BY:
                                raise
                            self._news.set()
                            continue
                if self._verdicts.get(source) == (document, fault):
                    del self._verdicts[source]

    def _place(self, source: str) -> tuple[Known, str] | None:
        for kind in _WRITTEN:
            if source.startswith(prefix := source_of(kind, "")):
                key = source.removeprefix(prefix)
                known = self._known(kind)
                return (known, key) if key in known.objects else None
        return None


def _with(conditions: list[dict[str, Any]], fault: str) -> list[dict[str, Any]] | None:
    """The conditions with ours; None when they are as they should be."""
    status, message = ("False", fault[:_LONGEST]) if fault else ("True", _GOOD)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    wanted = {"type": VALID, "status": status, "lastTransitionTime": now, "message": message}
    found = []
    for each in conditions:
        if each.get("type") != VALID:
            found.append(each)
        elif (each.get("status"), each.get("message")) == (status, message):
            return None
        elif each.get("status") == status:
            wanted["lastTransitionTime"] = each.get("lastTransitionTime") or now
    return [*found, wanted]
