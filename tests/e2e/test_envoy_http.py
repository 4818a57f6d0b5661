"""HTTP through the node's Envoy: enforced, and otherwise as if nothing were in between."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import Event, ResponseReceived, StreamEnded, StreamReset
from lockgate.envoy.config.access_log import NO_ROUTES, Rotation
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.config.end import SHARDS
from lockgate.envoy.config.messages import http_rbac, protobuf, rbac
from lockgate.envoy.config.policy_slot import NOT_SYNCED, RBAC_TYPE_URL
from lockgate.envoy.errors import AdminUnreachableError
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.inspection.inspect import read_config
from lockgate.tests.e2e.policed_envoy import DENIED, PolicyServer, Server, connected, denials, denying, get, policed
from lockgate.tests.e2e.redirected_envoy import (  # noqa: F401
    CLIENT,
    CLIENT6,
    OTHER_CLIENT,
    PATIENCE,
    SERVER,
    SERVER6,
    namespace_of_its_own,
    ready,
    running,
    settings,
    short_run_dir,
    until,
)


async def test_without_an_xds_server_everything_is_denied_once_the_time_is_up(run_dir: Path) -> None:
    async with ready(run_dir), Server().listening(SERVER) as server, connected(CLIENT, SERVER) as client:
        head, body = await client.ask(get("/a"))
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert body == DENIED
        assert server.requests == []
        (request,) = await denials(run_dir, 1)
        assert (request.rule, request.path) == (NOT_SYNCED, "/a")


async def test_without_routes_what_the_policy_allows_is_denied_too(run_dir: Path) -> None:
    content = bootstrap(settings(run_dir, first_policy_timeout=0.5))
    async with (
        PolicyServer(run_dir, denying("/secret"), routing=False),
        ready(run_dir, content),
        Server().listening(SERVER) as server,
        connected(CLIENT, SERVER) as client,
        grpc.aio.insecure_channel(f"{SERVER}:8080") as channel,
    ):
        for path in ("/a", "/secret"):
            head, body = await client.ask(get(path))
            assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
            assert body == DENIED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/open/Echo")(b"", timeout=PATIENCE)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert refused.value.details() == "Access denied"
        assert server.requests == []
        logged = await denials(run_dir, 3)
        assert [(each.rule, each.path, each.code) for each in logged] == [
            (NO_ROUTES, "/a", 403),
            ("default/web:spec.ingress[0]", "/secret", 403),
            (NO_ROUTES, "/open/Echo", 200),
        ]


async def test_the_listener_stays_closed_until_the_policy_has_come(run_dir: Path) -> None:
    async with (
        running(run_dir, bootstrap(settings(run_dir))),
        Admin(run_dir / "admin.sock") as admin,
        Server().listening(SERVER) as server,
    ):

        async def initializing() -> bool:
            try:
                return (await admin.server_info())["state"] in ("PRE_INITIALIZING", "INITIALIZING")
            except AdminUnreachableError:
                return False

        await until("Envoy waits for its policy", initializing)
        for address in ("127.0.0.1", "::1"):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(address, 15001)
        async with PolicyServer(run_dir, denying("/secret")):
            await until("Envoy is ready", admin.ready)
            async with connected(CLIENT, SERVER) as client:
                assert (await client.ask(get("/a")))[1] == b"ok"
        assert len(server.requests) == 1


@pytest.mark.parametrize(("source", "destination"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
async def test_a_request_arrives_as_it_was_sent_from_the_client_itself(
    run_dir: Path, source: str, destination: str
) -> None:
    requests = [
        get("/plain?q=1"),
        get("/cased", "X-MiXed-Case: One", "x_under: 2"),
        get("/forwarded", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "Forwarded: for=1", "Via: 1.1 me"),
        get("/traced", "X-Request-Id: 7", "traceparent: 00-1-2-00", "X-Envoy-Other: 1", "X-Forwarded-Client-Cert: c"),
        get("/te", "TE: trailers", "Accept-Encoding: gzip"),
    ]
    async with policed(run_dir) as (_, _, server), connected(source, destination) as client:
        for request in requests:
            head, body = await client.ask(request)
            assert head.startswith(b"HTTP/1.1 200 Very Fine\r\nX-CaSe: Kept\r\nServer: Mine/1\r\nContent-Length: 2\r\n")
            # RFC 9110, 6.6.1: who forwards a response without a date gives it one.
            assert {line.partition(b":")[0] for line in head.split(b"\r\n")[4:] if line} == {b"date"}
            assert body == b"ok"
        assert [request for _, request in server.requests] == requests
        assert {peer for (peer, _), _ in server.requests} == {source}


async def test_a_denied_request_is_answered_and_the_connection_kept(run_dir: Path) -> None:
    async with policed(run_dir) as (_, _, server), connected(CLIENT, SERVER) as client:
        for _ in range(2):
            assert (await client.ask(get("/secret?key=1")))[1] == DENIED
            assert (await client.ask(get("/open")))[1] == b"ok"
        assert len(server.requests) == 2
        request, _ = await denials(run_dir, 2)
        assert request.rule == "default/web:spec.ingress[0]"
        assert str(request.source) == f"{CLIENT}:{client.port()}"
        assert str(request.destination) == f"{SERVER}:8080"
        assert (request.method, request.path, request.host) == ("GET", "/secret?key=1", "Api")
        assert (request.code, request.protocol) == (403, "HTTP/1.1")


@pytest.mark.parametrize(("source", "filters"), [(CLIENT, 2), (OTHER_CLIENT, 1)])
async def test_no_filter_runs_for_an_end_that_is_elsewhere(run_dir: Path, source: str, filters: int) -> None:
    async with policed(run_dir) as (_, admin, _), connected(source, SERVER) as client:

        async def run() -> int:
            return int((await admin.stats("^http.lockgate_http.composite.filter_delegation_success$")).popitem()[1])

        before = await run()
        assert (await client.ask(get("/open")))[1] == b"ok"
        assert await run() == before + filters
        assert (await client.ask(get("/secret")))[1] == DENIED


async def test_a_403_of_the_server_is_its_own(run_dir: Path) -> None:
    async with policed(run_dir) as (_, _, _), connected(CLIENT, SERVER) as client:
        head, body = await client.ask(get("/forbidden"))
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\nX-CaSe: Kept\r\n")
        assert body == b"ok"
        assert (await client.ask(get("/secret")))[1] == DENIED
        assert [request.path for request in await denials(run_dir, 1)] == ["/secret"]


@pytest.mark.parametrize("path", ["/a/../secret", "/./secret", "//secret", "/a/%2e%2e/secret", "/%73ecret"])
async def test_a_path_is_judged_as_the_server_will_read_it(run_dir: Path, path: str) -> None:
    async with policed(run_dir) as (_, _, server), connected(CLIENT, SERVER) as client:
        assert (await client.ask(get(path)))[1] == DENIED
        assert server.requests == []


async def test_two_clients_never_share_a_connection(run_dir: Path) -> None:
    async with policed(run_dir) as (_, _, server):
        for _ in range(8):
            for source in (CLIENT, OTHER_CLIENT):
                async with connected(source, SERVER) as client:
                    assert (await client.ask(get(f"/{source}")))[1] == b"ok"
        owners: dict[tuple[str, int], set[str]] = {}
        for peer, request in server.requests:
            owners.setdefault(peer, set()).add(request.split()[1].decode().removeprefix("/"))
        assert len(server.requests) == 16
        assert all(askers == {peer[0]} for peer, askers in owners.items())


async def test_a_policy_change_reaches_a_live_connection(run_dir: Path) -> None:
    async with policed(run_dir) as (policies, _, _), connected(CLIENT, SERVER) as client:
        assert (await client.ask(get("/public")))[1] == b"ok"
        policies.change(denying("/public"))

        async def refused() -> bool:
            return (await client.ask(get("/public")))[1] == DENIED

        async def allowed() -> bool:
            return (await client.ask(get("/secret")))[1] == b"ok"

        await until("the new policy is enforced", refused)
        await until("that of the other direction too", allowed)


async def test_a_rejected_policy_shows_and_the_last_good_one_stays(run_dir: Path) -> None:
    async with policed(run_dir) as (policies, admin, _), connected(CLIENT, SERVER) as client:
        policies.change(http_rbac.Rbac(rules=rbac.Rbac(policies={"empty": rbac.Policy()})))

        async def rejected() -> bool:
            return bool(policies.rejections)

        await until("Envoy rejects the policy", rejected)
        stats = await admin.stats(r"^extension_config_discovery\..*\.update_rejected$")
        assert list(stats.values()) == [1] * 2 * SHARDS  # a response is taken or refused as a whole
        for record in read_config(await admin.config_dump()).filters:
            assert (record.version, record.default) == ("1", False)
        assert (await client.ask(get("/secret")))[1] == DENIED
        assert (await client.ask(get("/open")))[1] == b"ok"


async def test_a_websocket_passes(run_dir: Path) -> None:
    upgrade = get("/chat", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    async with policed(run_dir) as (_, _, server), connected(CLIENT, SERVER) as client:
        client.writer.write(upgrade)
        async with asyncio.timeout(PATIENCE):
            assert (await client.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
            client.writer.write(b"hello")
            assert await client.reader.readexactly(5) == b"HELLO"
        assert len(server.requests) == 1


async def test_grpc_passes_and_is_denied_in_its_own_terms(run_dir: Path) -> None:
    async def echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request + str(context.peer()).encode()

    handler = grpc.method_handlers_generic_handler("open", {"Echo": grpc.unary_unary_rpc_method_handler(echo)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"{SERVER}:8080")
    await server.start()
    try:
        async with (
            PolicyServer(run_dir, denying("/secret")),
            ready(run_dir, bootstrap(settings(run_dir))),
            grpc.aio.insecure_channel(f"{SERVER}:8080") as channel,
        ):
            answer: bytes = await channel.unary_unary("/open/Echo")(b"hi ", timeout=PATIENCE)
            assert answer.startswith(b"hi ipv4:10.9.0.")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary("/secret.Service/Echo")(b"", timeout=PATIENCE)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert refused.value.details() == "Access denied"
            (request,) = await denials(run_dir, 1)
            assert (request.path, request.protocol, request.code) == ("/secret.Service/Echo", "HTTP/2", 200)
            assert request.grpc_method == "secret.Service/Echo"
    finally:
        await server.stop(None)


async def test_a_malformed_request_of_http2_ends_alone(run_dir: Path) -> None:
    connection = H2Connection(H2Configuration(validate_outbound_headers=False))
    connection.initiate_connection()
    for number, path in ((1, "/a blank"), (3, "/secret")):
        head = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "api")]
        connection.send_headers(number, head, end_stream=True)
    events: list[Event] = []
    async with policed(run_dir) as (_, _, server), connected(CLIENT, SERVER) as client, asyncio.timeout(PATIENCE):
        while not any(isinstance(event, StreamEnded) and event.stream_id == 3 for event in events):
            client.writer.write(connection.data_to_send())
            data = await client.reader.read(65536)
            assert data, f"the connection ended after {events}"
            events += connection.receive_data(data)
        assert [event.stream_id for event in events if isinstance(event, StreamReset)] == [1]
        (answer,) = (event for event in events if isinstance(event, ResponseReceived))
        assert dict(answer.headers or ())[b":status"] == b"403"
        assert server.requests == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_connection_to_the_listener_itself_leads_nowhere(run_dir: Path, address: str) -> None:
    async with policed(run_dir) as (_, admin, _):
        reader, writer = await asyncio.open_connection(address, 15001)
        writer.write(get("/loop"))
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()
        stats = await admin.stats(r"^cluster\.lockgate\.original_destination\.upstream_cx_total$")
        assert list(stats.values()) == [0]


async def test_the_access_log_rotates_without_losing_a_line(run_dir: Path) -> None:
    log = run_dir / "requests.jsonl"
    async with policed(run_dir) as (_, admin, _), connected(CLIENT, SERVER) as client:
        await client.ask(get("/secret/1"))
        await denials(run_dir, 1)
        assert Rotation(limit=1).rotate(log)
        await client.ask(get("/secret/2"))
        await admin.reopen_logs()

        async def reopened() -> bool:
            return log.exists()

        await until("Envoy opened a new log", reopened)
        await client.ask(get("/secret/3"))

        async def all_written() -> bool:
            return len(_paths(run_dir)) == 3

        await until("every denial is logged", all_written)
        assert _paths(run_dir) == ["/secret/1", "/secret/2", "/secret/3"]


def _paths(run_dir: Path) -> list[str]:
    files = [run_dir / "requests.jsonl.1", run_dir / "requests.jsonl"]
    return [json.loads(line)["path"] for file in files for line in file.read_text().splitlines()]


def test_the_slots_take_rbac_only() -> None:
    assert protobuf.Any.pack(denying("/")).type_url == RBAC_TYPE_URL
