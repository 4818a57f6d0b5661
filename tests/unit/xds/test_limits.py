"""What clients may cost: who wants more is told so, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from lockgate.tests.unit.xds.raw_stream import DeltaRaw, SotwRaw, resource
from lockgate.xds.serve.limits import Limits
from lockgate.xds.serve.node_memory import NodeMemories
from lockgate.xds.serve.server import XdsServer
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, Snapshot

FEW = Limits(streams=2, nodes=2, types=2, names=3, greeting=0.2)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(tmp_path / "xds.sock", limits=FEW)
    await running.start()
    await running.publish(Snapshot.of([resource(CLUSTER, "a")]))
    yield running
    await running.stop()


@asynccontextmanager
async def channel(folder: Path) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"unix:{folder / 'xds.sock'}", options=options) as opened:
        yield opened


async def refused(client: DeltaRaw | SotwRaw, words: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
        while True:
            await client.hear()
    assert caught.value.code() is code


async def test_streams_of_the_socket(server: XdsServer, tmp_path: Path) -> None:
    async with channel(tmp_path) as opened:
        clients = [DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node=f"n{number}") for number in range(2)]
        for client in clients:
            await client.subscribe()
            await client.ack(await client.hear())
        late = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="late")
        await refused(late, "the local socket has 2 xDS streams already", grpc.StatusCode.RESOURCE_EXHAUSTED)
        await server.publish(Snapshot.of([resource(CLUSTER, "a", "2")]))
        for client in clients:
            assert (await client.hear()).contents == {"a": "2"}


async def test_types_of_a_stream(server: XdsServer, tmp_path: Path) -> None:
    async with channel(tmp_path) as opened:
        client = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="n")
        for type_url in (CLUSTER, ENDPOINTS, LISTENER):
            await client.subscribe("a", type_url=type_url)
        await refused(client, "a stream may ask for 2 types", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert server.status().clients == ()


async def test_names_of_a_type_however_they_come(server: XdsServer, tmp_path: Path) -> None:
    async with channel(tmp_path) as opened:
        client = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="n")
        await client.subscribe("a", "b")
        await client.subscribe("c", "d")
        await refused(client, "a stream may ask for 3 resources of a type", grpc.StatusCode.RESOURCE_EXHAUSTED)
        back = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="n")
        await back.subscribe(held={str(number): "1" for number in range(4)})
        await refused(back, "a stream may ask for 3 resources of a type", grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert server.status().clients == ()


async def test_who_says_nothing_is_not_kept(server: XdsServer, tmp_path: Path) -> None:
    async with channel(tmp_path) as opened:
        silent = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="n")
        await refused(silent, "no request within 0.2 s", grpc.StatusCode.DEADLINE_EXCEEDED)
    assert server.status().clients == ()


def test_no_more_ids_of_the_socket_are_remembered_than_wanted() -> None:
    memories = NodeMemories(2)
    distant = memories.of(("edge", "edge"))
    first = memories.of((None, "0"), {(None, "0")})
    for number in range(1, 50):
        memories.of((None, str(number)), {(None, "0")})
    assert len(memories) == 3
    assert memories.of((None, "0")) is first, "who is connected is not forgotten"
    assert memories.of(("edge", "edge")) is distant, "nor is a remote node, which has a certificate"
