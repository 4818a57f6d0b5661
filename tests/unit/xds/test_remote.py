"""Remote nodes: mutual TLS, one content for each, and nothing for anybody else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from lockgate.tests.unit.xds.raw_stream import DeltaRaw, SotwRaw, resource
from lockgate.xds.errors import RemoteError, UnknownRevision
from lockgate.xds.serve.certificate_files import Credentials
from lockgate.xds.serve.certificates import Authority, Identity
from lockgate.xds.serve.remote import Remote
from lockgate.xds.serve.server import XdsServer
from lockgate.xds.serve.settled import Outcome
from lockgate.xds.snapshot import CLUSTER, Snapshot

WAIT = 10.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
async def server(tmp_path: Path, authority: Authority) -> AsyncIterator[XdsServer]:
    remote = Remote("127.0.0.1", 0, Credentials(authority.server(["127.0.0.1"]), authority.identity.certificate))
    running = XdsServer(tmp_path / "xds.sock", remote=remote)
    await running.start()
    yield running
    await running.stop()


@asynccontextmanager
async def channel(
    server: XdsServer, authority: Authority, identity: Identity | None
) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(
        authority.identity.certificate,
        identity.key if identity else None,
        identity.certificate if identity else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.remote_port}", credentials, options=options) as opened:
        yield opened


@asynccontextmanager
async def node(
    server: XdsServer, authority: Authority, name: str, claims: str | None = None
) -> AsyncIterator[DeltaRaw]:
    async with channel(server, authority, authority.node(name)) as opened:
        yield DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node=name if claims is None else claims)


def content(**named: str) -> Snapshot:
    return Snapshot.of(resource(CLUSTER, name, told) for name, told in named.items())


async def test_each_node_gets_its_own(server: XdsServer, authority: Authority, tmp_path: Path) -> None:
    await server.publish(content(local="1"))
    revisions = {name: await server.publish(content(**{name: "1"}), node=name) for name in ("a", "b")}
    async with node(server, authority, "a") as a, node(server, authority, "b") as b:
        for name, client in (("a", a), ("b", b)):
            await client.subscribe()
            heard = await client.hear()
            assert heard.contents == {name: "1"}
            await client.ack(heard)
            assert (await server.settled(revisions[name], WAIT, node=name)).acked
        assert (await server.settled(1, 0)).outcome is Outcome.NO_CLIENT  # nobody is on the socket
        await server.publish(content(a="2"), node="a")
        assert (await a.hear()).contents == {"a": "2"}
        assert (await server.settled(revisions["b"], WAIT, node="b")).acked
        async with grpc.aio.insecure_channel(f"unix:{tmp_path / 'xds.sock'}") as local:
            here = SotwRaw(local, type_url=CLUSTER, aggregated=True, node="a")  # the socket's content, whoever says so
            await here.want()
            assert (await here.hear()).contents == {"local": "1"}
    with pytest.raises(UnknownRevision):
        await server.settled(1, 0, node="c")


async def test_a_node_without_content_waits(server: XdsServer, authority: Authority) -> None:
    await server.publish(content(local="1"))
    async with node(server, authority, "a") as client:
        await client.subscribe()
        hearing = asyncio.create_task(client.hear())
        for _ in range(2000):
            if any(client.types for client in server.status().clients):
                break
            await asyncio.sleep(0.005)
        await server.publish(content(a="1"), node="a")
        assert (await hearing).contents == {"a": "1"}


@pytest.mark.parametrize("claims", ["b", ""])
async def test_a_node_cannot_be_another(server: XdsServer, authority: Authority, claims: str) -> None:
    await server.publish(content(b="secret"), node="b")
    async with node(server, authority, "a", claims) as client:
        await client.subscribe()
        with pytest.raises(grpc.aio.AioRpcError, match="the certificate is for node a, but the client says") as caught:
            await client.hear()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_without_a_certificate_of_ours_nothing_is_served(server: XdsServer, authority: Authority) -> None:
    await server.publish(content(a="1"), node="a")
    for identity in (None, Authority.new().node("a")):
        async with channel(server, authority, identity) as opened:
            client = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="a")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.subscribe()
                await client.hear()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.remote_port}") as plain:
        client = DeltaRaw(plain, type_url=CLUSTER, aggregated=True, node="a")
        with pytest.raises(grpc.aio.AioRpcError):
            await client.subscribe()
            await client.hear()
    assert server.status().clients == ()


async def test_a_certificate_of_ours_that_is_no_nodes_is_refused(server: XdsServer, authority: Authority) -> None:
    certificate = authority.node("a")
    nobody = Authority(authority.identity)._leaf("a", [], 1)
    assert certificate != nobody
    async with channel(server, authority, nobody) as opened:
        client = DeltaRaw(opened, type_url=CLUSTER, aggregated=True, node="a")
        with pytest.raises(grpc.aio.AioRpcError, match="names no node") as caught:
            await client.hear()  # without a word: see RawStream
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_that_does_not_read_costs_one_response(server: XdsServer, authority: Authority) -> None:
    """Many changes of a megabyte; what it cannot take is not kept for it."""
    async with node(server, authority, "dead") as dead, node(server, authority, "live") as live:
        for client in (dead, live):
            await client.subscribe()
        for number in range(150):
            for name in ("dead", "live"):
                await server.publish(content(big=f"{number:04}" * 250_000), node=name)
            heard = await live.hear()
            await live.ack(heard)
            if number == 20:
                before = resident()
        assert resident() - before < 60_000_000
        (waiting,) = [one for one in server.status().clients if one.node == "dead"]
        assert waiting.state == "STALE"


async def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path, authority: Authority) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        remote = Remote("127.0.0.1", port, Credentials(authority.server(["127.0.0.1"]), authority.identity.certificate))
        with pytest.raises(RemoteError, match=f"cannot serve xDS on 127.0.0.1 port {port}"):
            await XdsServer(tmp_path / "xds.sock", remote=remote).start()


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
