"""What a cluster is told of its policies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from lockgate.agent.inspection import policy_status
from lockgate.agent.inspection.policy_status import PolicyStatus
from lockgate.agent.supply.intake import Intake, NoMemory, admit
from lockgate.store import Document, StoreContent

GOOD = (
    b"{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a},"
    b" spec: {endpointSelector: {}, ingress: [{}]}}"
)
BAD = GOOD.replace(b"ingress", b"ingres")


class Told:
    """A cluster."""

    def __init__(self) -> None:
        self.verdicts: list[tuple[str, str]] = []
        self.news = asyncio.Event()

    def judged(self, verdicts: Iterable[tuple[Document, str]]) -> None:
        self.verdicts += [(document.source, fault) for document, fault in verdicts]
        self.news.set()


async def test_each_document_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_status, "_LOOK_SECONDS", 0.001)
    cluster, first, second = Told(), Document("k:1", GOOD), Document("k:2", BAD)
    intake = admit(Intake(), StoreContent((first,), ()), NoMemory())
    running = asyncio.create_task(PolicyStatus(cluster, lambda: intake).run())
    try:
        await cluster.news.wait()
        assert cluster.verdicts == [("k:1", "")]
        cluster.news.clear()
        intake = admit(intake, StoreContent((first, second), ()), NoMemory())
        await cluster.news.wait()
        (source, fault) = cluster.verdicts[1]
        assert source == "k:2"
        assert fault.startswith("spec") and "unknown field 'ingres'; did you mean 'ingress'?" in fault
        assert len(cluster.verdicts) == 2
    finally:
        running.cancel()
