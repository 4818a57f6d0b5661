"""The server on its socket, with real gRPC clients."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from envoy_data_plane.google.rpc import Status
from lockgate.xds.errors import SocketError, UnknownRevision
from lockgate.xds.serve.server import XdsServer
from lockgate.xds.serve.service import AGGREGATED
from lockgate.xds.serve.settled import Hearing, Outcome
from lockgate.xds.serve.status import SyncState
from lockgate.xds.snapshot import CLUSTER, FILTER_CONFIG, LISTENER, Resource, Snapshot

A1, A2, B1 = (Resource(FILTER_CONFIG, name, body) for name, body in (("a", b"1"), ("a", b"2"), ("b", b"1")))
WAIT = 10.0


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no message tells."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


def names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


class Client:
    """A client that speaks whole messages of envoy-data-plane."""

    def __init__(self, path: Path, node: str = "n1") -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._call: Any = self._channel.stream_stream(f"/{AGGREGATED.name}/DeltaAggregatedResources")()
        self._node: Node | None = Node(id=node)

    async def say(self, type_url: str = FILTER_CONFIG, **fields: Any) -> None:
        await self._call.write(bytes(DeltaDiscoveryRequest(node=self._node, type_url=type_url, **fields)))
        self._node = None

    async def hear(self) -> DeltaDiscoveryResponse:
        return DeltaDiscoveryResponse.parse(await asyncio.wait_for(self._call.read(), WAIT))

    async def ack(self, response: DeltaDiscoveryResponse) -> None:
        await self.say(response.type_url, response_nonce=response.nonce)

    async def nack(self, response: DeltaDiscoveryResponse, text: str) -> None:
        error = Status(code=13, message=text)
        await self.say(response.type_url, response_nonce=response.nonce, error_detail=error)

    async def hears_nothing(self) -> bool:
        """True when the server has answered everything it will: a probe of another type is answered first."""
        await self.say("probe")
        return (await self.hear()).type_url == "probe"

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(tmp_path / "xds.sock")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def client(server: XdsServer, tmp_path: Path) -> AsyncIterator[Client]:
    connected = Client(tmp_path / "xds.sock")
    yield connected
    await connected.close()


async def test_serves_and_settles(server: XdsServer, client: Client) -> None:
    revision = await server.publish(Snapshot.of([A1]))
    await client.say(resource_names_subscribe=["a"])
    response = await client.hear()
    assert [(one.name, one.version) for one in response.resources] == [("a", A1.version)]
    assert (await server.settled(revision, 0)).outcome is Outcome.TIMEOUT
    (status,) = server.status().clients
    assert (status.node, status.state) == ("n1", SyncState.STALE)
    await client.ack(response)
    assert (await server.settled(revision, WAIT)).acked
    (status,) = server.status().clients
    assert status.state is SyncState.SYNCED
    (known,) = status.types[0].resources
    assert (known.name, known.published, known.held) == ("a", A1.version, A1.version)


async def test_a_change_is_pushed(server: XdsServer, client: Client) -> None:
    await server.publish(Snapshot.of([A1]))
    await client.say(resource_names_subscribe=["a"])
    await client.ack(await client.hear())
    revision = await server.publish(Snapshot.of([A2]))
    response = await client.hear()
    assert response.resources[0].version == A2.version
    await client.ack(response)
    assert (await server.settled(revision, WAIT)).acked


async def test_before_the_first_snapshot_nothing_is_said(server: XdsServer, client: Client) -> None:
    await client.say(CLUSTER)
    await client.say(resource_names_subscribe=["a"], initial_resource_versions={"a": A1.version})
    await until(lambda: [len(one.types) for one in server.status().clients] == [2])
    await server.publish(Snapshot.of([A1]))
    response = await client.hear()
    assert (response.type_url, response.resources, response.removed_resources) == (CLUSTER, [], [])
    assert await client.hears_nothing()


async def test_an_empty_wildcard_is_answered_at_once(server: XdsServer, client: Client) -> None:
    await server.publish(Snapshot())
    for type_url in (CLUSTER, LISTENER):
        await client.say(type_url)
        response = await client.hear()
        assert (response.type_url, response.resources) == (type_url, [])
        await client.ack(response)


async def test_a_nack_is_shown_with_the_clients_text(server: XdsServer, client: Client) -> None:
    await server.publish(Snapshot.of([A1, B1]))
    await client.say(resource_names_subscribe=["a", "b"])
    for _ in range(2):
        await client.ack(await client.hear())
    revision = await server.publish(Snapshot.of([A2, B1]))
    await client.nack(await client.hear(), "invalid regex")
    settled = await server.settled(revision, WAIT)
    assert (settled.outcome, settled.text) == (Outcome.NACKED, "a: invalid regex")
    (entry,) = server.status().clients[0].types
    assert (entry.state, entry.errors) == (SyncState.NACK, ("invalid regex",))
    assert [(one.name, one.state, one.held) for one in entry.resources] == [
        ("a", SyncState.NACK, A1.version),
        ("b", SyncState.SYNCED, B1.version),
    ]
    held = await client.hear()  # once more, see HELD_AGAIN
    assert [(one.name, one.version) for one in held.resources] == [("a", A1.version)]
    await client.ack(held)
    assert await client.hears_nothing()
    again = await server.publish(Snapshot.of([A2, B1]))
    assert (await server.settled(again, WAIT)).text == "a: invalid regex"
    back = await server.publish(Snapshot.of([A1, B1]))
    assert (await server.settled(back, WAIT)).acked
    assert server.status().clients[0].types[0].state is SyncState.SYNCED


async def test_since_is_when_the_state_began(server: XdsServer, client: Client) -> None:
    await server.publish(Snapshot.of([A1]))
    await client.say(resource_names_subscribe=["a"])
    response = await client.hear()
    stale = server.status().clients[0].types[0].since
    await client.ack(response)
    await server.settled(1, WAIT)
    synced = server.status().clients[0].types[0].since
    assert synced.monotonic > stale.monotonic
    await server.publish(Snapshot.of([Resource(CLUSTER, "unasked", b"1"), A1]))
    assert await client.hears_nothing()
    assert server.status().clients[0].types[0].since == synced


async def test_coalesced_pushes_complete_older_waiters(server: XdsServer, client: Client) -> None:
    first = await server.publish(Snapshot.of([A1]))
    await client.say(resource_names_subscribe=["a"])
    response = await client.hear()
    waiters = [asyncio.create_task(server.settled(first, WAIT))]
    for body in (b"2", b"3", b"4"):
        revision = await server.publish(Snapshot.of([Resource(FILTER_CONFIG, "a", body)]))
        waiters.append(asyncio.create_task(server.settled(revision, WAIT)))
    await client.ack(response)
    await client.ack(await client.hear())
    assert [(await waiter).outcome for waiter in waiters] == [Outcome.ACKED] * 4
    assert await client.hears_nothing()


async def test_a_silent_client_delays_nobody(server: XdsServer, client: Client, tmp_path: Path) -> None:
    silent = Client(tmp_path / "xds.sock", "silent")
    await server.publish(Snapshot.of([A1]))
    await silent.say(resource_names_subscribe=["a"])  # and never reads
    await client.say(resource_names_subscribe=["a"])
    await client.ack(await client.hear())
    for number in range(20):
        big = Resource(FILTER_CONFIG, "a", bytes([number]) * 1_000_000)
        await server.publish(Snapshot.of([big]))
        response = await client.hear()
        assert response.resources[0].version == big.version
        await client.ack(response)
    states = {one.node: one.state for one in server.status().clients}
    assert states["silent"] is SyncState.STALE
    await silent.close()


async def test_a_client_that_does_not_answer_loses_its_stream(
    server: XdsServer, client: Client, tmp_path: Path
) -> None:
    """It alone, and what it is given on another is what it lacks."""
    assert server.hearing("n1") == Hearing(False, False, 0), "nothing is published"
    await server.publish(Snapshot.of([A1]))
    assert server.hearing("n1") == Hearing(False, True, 0), "there is nobody"
    good = Client(tmp_path / "xds.sock", "n2")
    for each in (good, client):
        await each.say(resource_names_subscribe=["a"])
        response = await each.hear()
        if each is good:
            await each.ack(response)
    await until(lambda: not server.hearing("n2").behind)
    assert server.hearing("n1") == Hearing(True, True, 1)
    assert (server.end_unanswered("n2"), server.end_unanswered("n1")) == (0, 1)
    with pytest.raises(grpc.aio.AioRpcError, match="has not answered to what it was told"):
        assert await client.hear()
    await until(lambda: not server.hearing("n1").connected)
    again = Client(tmp_path / "xds.sock", "n1")
    await again.say(resource_names_subscribe=["a"])
    await again.ack(await again.hear())
    await until(lambda: not server.hearing("n1").behind)
    for each in (good, again):
        await each.close()


async def test_settled_waits_for_a_client_to_come(server: XdsServer, tmp_path: Path) -> None:
    revision = await server.publish(Snapshot.of([A1]))
    assert (await server.settled(revision, 0.01)).outcome is Outcome.NO_CLIENT
    waiting = asyncio.create_task(server.settled(revision, WAIT))
    late = Client(tmp_path / "xds.sock")
    await late.say(resource_names_subscribe=["a"])
    await late.ack(await late.hear())
    assert (await waiting).acked
    await late.close()
    await until(lambda: not server.status().clients)


async def test_a_revision_that_never_was_is_an_error(server: XdsServer) -> None:
    with pytest.raises(UnknownRevision, match="revision 1 was never published"):
        await server.settled(1, 0)


async def test_nonsense_ends_the_stream_and_nothing_else(server: XdsServer, client: Client, tmp_path: Path) -> None:
    await server.publish(Snapshot.of([A1]))
    channel = grpc.aio.insecure_channel(f"unix:{tmp_path / 'xds.sock'}")
    call = channel.stream_stream(f"/{AGGREGATED.name}/DeltaAggregatedResources")()
    await call.write(b"\xff\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await channel.close()
    await client.say(resource_names_subscribe=["a"])
    assert (await client.hear()).resources[0].name == "a"


async def test_a_restarted_server_sends_nothing_that_is_held(tmp_path: Path) -> None:
    versions: dict[str, str] = {}
    for _ in range(2):
        server = XdsServer(tmp_path / "xds.sock")
        await server.start()
        revision = await server.publish(Snapshot.of([A1, B1]))
        client = Client(tmp_path / "xds.sock")
        await client.say(resource_names_subscribe=["a", "b"], initial_resource_versions=versions)
        if versions:
            assert await client.hears_nothing()
        else:
            for _ in range(2):
                response = await client.hear()
                versions[response.resources[0].name] = response.resources[0].version
                await client.ack(response)
            assert (await server.settled(revision, WAIT)).acked
        await client.close()
        await server.stop()


async def test_the_socket_is_the_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "xds.sock"
    path.write_text("left behind by a crash")
    server = XdsServer(path)
    await server.start()
    assert stat.S_ISSOCK(path.stat().st_mode) and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names_in(tmp_path) == ["xds.sock"]
    await server.stop()
    assert not names_in(tmp_path)


async def test_a_socket_that_cannot_be_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="longer than 107 bytes; use a shorter run dir"):
        await XdsServer(tmp_path / ("x" * 120)).start()
    with pytest.raises(SocketError, match="No such file or directory"):
        await XdsServer(tmp_path / "missing" / "xds.sock").start()
