"""Clients that other people wrote, on the real server: Envoy in both variants of the protocol, and gRPC's own."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import grpc
import pytest
from lockgate.agent.force.effect_watch import EffectWatch
from lockgate.envoy.inspection.admin import Admin
from lockgate.tests.e2e.dynamic_envoy import dynamic_envoy, eds_cluster, endpoints, http_listener, routes, tls_listener
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy
from lockgate.tests.e2e.tls_pods import Authority as CertificateAuthority
from lockgate.xds import LISTENER, SECRET, Outcome, Resource, Snapshot, XdsServer
from lockgate.xds.compile.tls_resources import certificate
from lockgate.xds.serve.certificate_files import Credentials
from lockgate.xds.serve.certificates import Authority, Identity
from lockgate.xds.serve.remote import Remote

WAIT = 15.0


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(tmp_path / "xds.sock")
    await running.start()
    yield running
    await running.stop()


@pytest.fixture(params=["GRPC", "DELTA_GRPC"])
def envoy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopbackEnvoy]:
    with dynamic_envoy({"pipe": {"path": str(tmp_path / "xds.sock")}}, request.param) as running:
        yield running


@contextmanager
def origin(name: str) -> Iterator[int]:
    """An HTTP server that answers with its name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running.server_address[1]
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def origins() -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(origin(name)) for name in ("one", "two")}


async def enforce(server: XdsServer, *resources: Resource) -> None:
    settled = await server.settled(await server.publish(Snapshot.of(resources)), WAIT)
    assert settled.acked, (settled, server.status())


async def get(envoy: LoopbackEnvoy, path: str = "/") -> str:
    def ask() -> str:
        answer = envoy.get("127.0.0.1", path)
        return answer.body if answer.status == 200 else str(answer.status)

    return await asyncio.to_thread(ask)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_envoy_has_everything_by_xds(server: XdsServer, envoy: LoopbackEnvoy, origins: dict[str, int]) -> None:
    """Each type is changed in turn, and the answers change with it."""
    listener = http_listener("web", "web-routes", envoy.listen[0][1])
    to_one = routes("web-routes", {"/": "one"})
    one, two = eds_cluster("one"), eds_cluster("two")
    at_one, at_two = endpoints("one", origins["one"]), endpoints("two", origins["two"])
    await enforce(server, listener, to_one, one, at_one)
    await asyncio.to_thread(envoy.wait_until_listening)
    assert await get(envoy) == "one"
    await enforce(server, listener, to_one, one, endpoints("one", origins["two"]))  # endpoints
    assert await get(envoy) == "two"
    await enforce(server, listener, to_one, one, at_one)
    both = routes("web-routes", {"/two": "two", "/": "one"})
    await enforce(server, listener, both, one, two, at_one, at_two)  # a cluster and the route to it
    assert [await get(envoy, path) for path in ("/", "/two")] == ["one", "two"]
    other = http_listener("web", "other-routes", envoy.listen[0][1])
    await enforce(server, other, routes("other-routes", {"/": "two"}), two, at_two)  # all of it, and removals
    await until(lambda: envoy.get("127.0.0.1", "/").body == "two")  # the listener before it drains
    await until(lambda: "one::observability_name" not in envoy.admin("/clusters"))


async def test_a_changed_cluster_gets_its_endpoints_again(
    server: XdsServer, envoy: LoopbackEnvoy, origins: dict[str, int]
) -> None:
    """Or it would stay in warming until its fetch timeout of 15 s.

    https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#resource-warming
    """
    rest = [
        http_listener("web", "routes", envoy.listen[0][1]),
        routes("routes", {"/": "one"}),
        endpoints("one", origins["one"]),
    ]
    await enforce(server, eds_cluster("one"), *rest)
    await asyncio.to_thread(envoy.wait_until_listening)
    for number in (100_000, 200_000):
        await enforce(server, eds_cluster("one", buffer=number), *rest)
        await until(lambda: envoy.stat("cluster_manager.warming_clusters") == 0)
        assert await get(envoy) == "one"
    assert envoy.stat("cluster.one.init_fetch_timeout") == 0


async def test_a_listener_under_another_name_takes_over_the_address(
    server: XdsServer, envoy: LoopbackEnvoy, origins: dict[str, int]
) -> None:
    """Envoy refuses a second listener at an address, so the one before goes first."""
    rest = [routes("routes", {"/": "one"}), eds_cluster("one"), endpoints("one", origins["one"])]
    for name in ("web", "renamed", "again"):
        await enforce(server, http_listener(name, "routes", envoy.listen[0][1]), *rest)
        await asyncio.to_thread(envoy.wait_until_listening)
        assert await get(envoy) == "one"
    assert envoy.stat("listener_manager.lds.update_rejected") == 0


async def test_a_refused_listener_leaves_the_good_ones(
    server: XdsServer, envoy: LoopbackEnvoy, origins: dict[str, int]
) -> None:
    """https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#ack-and-nack-semantics-summary"""
    good = http_listener("web", "routes", envoy.listen[0][1])
    rest = [routes("routes", {"/": "one"}), eds_cluster("one"), endpoints("one", origins["one"])]
    await enforce(server, good, *rest)
    await asyncio.to_thread(envoy.wait_until_listening)
    bad = Resource(LISTENER, "bad", b"\x0a\x03bad")  # a name and no address
    settled = await server.settled(await server.publish(Snapshot.of([good, bad, *rest])), WAIT)
    assert settled.outcome is Outcome.NACKED
    assert "bad" in settled.text and [name for (_, name), _ in settled.errors] == ["bad"]
    rejected = envoy.stat("listener_manager.lds.update_rejected")
    assert await get(envoy) == "one"
    more = [*rest, eds_cluster("two"), endpoints("two", origins["two"])]
    settled = await server.settled(await server.publish(Snapshot.of([good, bad, *more])), WAIT)
    assert settled.outcome is Outcome.NACKED  # it is still there and still refused, but was not sent again
    assert envoy.stat("listener_manager.lds.update_rejected") == rejected
    await enforce(server, good, *more)
    assert await get(envoy) == "one"


@pytest.mark.parametrize("api_type", ["GRPC", "DELTA_GRPC"])
async def test_a_refused_secret_is_refused_by_the_client_of_a_restarted_server(tmp_path: Path, api_type: str) -> None:
    """Envoy goes on with the certificate that it has, but has noted the other as its last: without another in between
    it would confirm it unseen when it comes again."""
    authority = CertificateAuthority("test")
    (chain, key), (_, other_key) = authority.issue("a"), authority.issue("b")
    good, bad = certificate("shown", chain, key), certificate("shown", chain, other_key)
    with dynamic_envoy({"pipe": {"path": str(tmp_path / "xds.sock")}}, api_type) as envoy:
        rest = [tls_listener("web", "shown", envoy.listen[0][1])]
        for number in range(3):
            server = XdsServer(tmp_path / "xds.sock")
            await server.start()
            if number == 0:
                await enforce(server, good, *rest)
                await asyncio.to_thread(envoy.wait_until_listening)
            settled = await server.settled(await server.publish(Snapshot.of([bad, *rest])), WAIT)
            assert settled.outcome is Outcome.NACKED and "KEY_VALUES_MISMATCH" in settled.text, settled
            await enforce(server, good, *rest)
            shown = await asyncio.to_thread(ssl.get_server_certificate, envoy.listen[0])
            assert shown.split() == chain.decode().split()
            await server.stop()


async def test_a_secret_that_is_confirmed_unseen_is_told(tmp_path: Path) -> None:
    """Nothing was before it, so nothing is sent again after its refusal: the next server takes it for one in force,
    and Envoy's list of secrets does so too."""
    authority = CertificateAuthority("test")
    (chain, key), (_, other_key) = authority.issue("a"), authority.issue("b")
    good, bad = certificate("shown", chain, key), certificate("shown", chain, other_key)
    with dynamic_envoy({"pipe": {"path": str(tmp_path / "xds.sock")}}, "DELTA_GRPC") as envoy:
        rest = [tls_listener("web", "shown", envoy.listen[0][1])]
        for outcome in (Outcome.NACKED, Outcome.ACKED):
            server = XdsServer(tmp_path / "xds.sock")
            await server.start()
            settled = await server.settled(await server.publish(Snapshot.of([bad, *rest])), WAIT)
            assert settled.outcome is outcome
            watch = EffectWatch(server, "dynamic", envoy.folder / "admin.sock")
            async with Admin(envoy.folder / "admin.sock") as admin:
                drifts = await watch.look(admin)
                if outcome is Outcome.ACKED:
                    (drift,) = drifts
                    assert drift.resource == (SECRET, "shown")
                    assert "has none in force (it uses none of its certificates" in str(drift)
                    await enforce(server, good, *rest)
                    await asyncio.to_thread(envoy.wait_until_listening)
                    assert await watch.look(admin) == ()
            await server.stop()


async def test_remote_envoys_each_have_their_own_over_mutual_tls(tmp_path: Path, origins: dict[str, int]) -> None:
    """Two nodes, and one that has another's name but not its certificate."""
    authority = Authority.new()
    remote = Remote("127.0.0.1", 0, Credentials(authority.server(["127.0.0.1"]), authority.identity.certificate))
    server = XdsServer(tmp_path / "xds.sock", remote=remote)
    await server.start()
    address: dict[str, object] = {"socket_address": {"address": "127.0.0.1", "port_value": server.remote_port}}

    def tls(identity: Identity) -> dict[str, object]:
        certificate = {
            "certificate_chain": {"inline_string": identity.certificate.decode()},
            "private_key": {"inline_string": identity.key.decode()},
        }
        context = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "tls_certificates": [certificate],
                "alpn_protocols": ["h2"],
                "validation_context": {"trusted_ca": {"inline_string": authority.identity.certificate.decode()}},
            },
        }
        return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}

    try:
        with ExitStack() as stack:
            for node, origin_name in (("node-1", "one"), ("node-2", "two")):
                more = tls(authority.node(node))
                envoy = stack.enter_context(dynamic_envoy(address, "DELTA_GRPC", node, **more))
                content = [
                    http_listener("web", "routes", envoy.listen[0][1]),
                    routes("routes", {"/": "c"}),
                    eds_cluster("c"),
                    endpoints("c", origins[origin_name]),
                ]
                revision = await server.publish(Snapshot.of(content), node=node)
                settled = await server.settled(revision, WAIT, node=node)
                assert settled.acked, (settled, envoy.log)
                await asyncio.to_thread(envoy.wait_until_listening)
                assert await get(envoy) == origin_name
            forged = stack.enter_context(
                dynamic_envoy(address, "DELTA_GRPC", "node-1", **tls(authority.node("node-3")))
            )
            await until(lambda: "the certificate is for node node-3" in forged.log)
            assert forged.stat("listener_manager.total_listeners_active") == 0
    finally:
        await server.stop()


class GrpcClient:
    """gRPC's xDS client in a process of its own, for its bootstrap is read from the environment."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def call(self) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        return (await asyncio.wait_for(self._process.stdout.readline(), WAIT)).decode().strip()


@pytest.fixture
async def grpc_client(tmp_path: Path) -> AsyncIterator[GrpcClient]:
    bootstrap = tmp_path / "grpc.json"
    server = {
        "server_uri": f"unix:{tmp_path / 'xds.sock'}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": ["xds_v3"],
    }
    bootstrap.write_text(json.dumps({"xds_servers": [server], "node": {"id": "grpc", "cluster": "test"}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(Path(__file__).with_name("grpc_xds_client.py")), "xds:///who"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "GRPC_XDS_BOOTSTRAP": str(bootstrap)},
    )
    yield GrpcClient(process)
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), WAIT) == 0


@contextmanager
def grpc_origin(name: str) -> Iterator[int]:
    handler = grpc.unary_unary_rpc_method_handler(lambda _request, _context: name.encode())
    running = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {"WhoAreYou": handler}),))
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield port
    running.stop(None).wait()


async def test_grpcs_own_client_follows(server: XdsServer, grpc_client: GrpcClient) -> None:
    """Listener, route, cluster, endpoints: each asked for by the name found in the one before."""
    with grpc_origin("one") as one, grpc_origin("two") as two:
        listener, route = http_listener("who", "who-routes", None), routes("who-routes", {"": "a"})
        unasked = eds_cluster("unasked")
        await server.publish(Snapshot.of([listener, route, eds_cluster("a"), endpoints("a", one), unasked]))
        assert await grpc_client.call() == "reply one"
        await server.publish(Snapshot.of([listener, route, eds_cluster("a"), endpoints("a", two), unasked]))
        await eventually(grpc_client, "reply two")
        moved = routes("who-routes", {"": "b"})
        await server.publish(Snapshot.of([listener, moved, eds_cluster("b"), endpoints("b", one)]))
        await eventually(grpc_client, "reply one")
        await server.publish(Snapshot())
        await eventually(grpc_client, "status UNAVAILABLE")
        await server.publish(Snapshot.of([listener, moved, eds_cluster("b"), endpoints("b", two)]))
        await eventually(grpc_client, "reply two")
    (client,) = server.status().clients
    assert client.node == "grpc"


async def eventually(client: GrpcClient, wanted: str) -> None:
    deadline = time.monotonic() + WAIT
    while not (told := await client.call()).startswith(wanted):
        assert time.monotonic() < deadline, told
        await asyncio.sleep(0.02)
