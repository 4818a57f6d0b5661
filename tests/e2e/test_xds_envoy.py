"""The xDS server and the compiled policies in a real Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from lockgate.envoy.config.policy_slot import NOT_SYNCED
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    GrpcRule,
    HeaderMatch,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.tests.e2e.loopback_envoy import LoopbackEnvoy, ask, running_envoy
from lockgate.tests.unit.xds.policy_strategies import endpoint, ipcache, origin
from lockgate.xds import (
    FILTER_CONFIG,
    SHARDS,
    NodeCompiler,
    NodeResources,
    Outcome,
    Resource,
    Snapshot,
    SyncState,
    XdsServer,
    policed_by,
    shard_name,
    shard_of,
)
from lockgate.xds.compile.matcher import DESTINATION_IP, act, exact_map, extension
from lockgate.xds.wire import frame

WAIT = 15.0
FRONTEND, INTRUDER, STRANGER = "127.0.0.21", "127.0.0.22", "127.0.0.99"
CACHE = ipcache(
    {
        **dict.fromkeys(["127.0.0.21/32", "127.0.0.23/32"], 300),
        "0.0.0.0/0": 9,
        "::/0": 10,
        "127.0.0.22/32": 301,
        "127.0.0.1/32": 400,
        "::1/128": 400,
    }
)
SERVER = endpoint("default/api-server", 400, "127.0.0.1", "::1")
CLIENT = endpoint("default/frontend", 300, FRONTEND)
NO_RULE = "identity:400:ingress:no-rule-matched"
SHARD = shard_name(Direction.INGRESS, shard_of(SERVER.identity))
# Envoy finds out only when it makes the filter.
_UNKNOWN = exact_map(DESTINATION_IP, {"127.0.0.1": act(extension("unknown", "no.such.Message"))})
BAD = Resource(FILTER_CONFIG, SHARD, extension(SHARD, "envoy.extensions.filters.http.rbac.v3.RBAC", frame(4, _UNKNOWN)))


def allowing(*http: HttpRule | GrpcRule, name: str = "api", ports: tuple[PortSpan, ...] | None = None) -> ResolvedRule:
    rules = HttpRules(
        tuple(rule for rule in http if isinstance(rule, HttpRule)),
        tuple(rule for rule in http if isinstance(rule, GrpcRule)),
    )
    return ResolvedRule(origin(name), False, frozenset({300}), ports, rules)


def server_policy(*rules: ResolvedRule) -> NodeResources:
    pairs = [(SERVER, EndpointPolicy(ingress=DirectionPolicy(True, rules)))]
    return NodeCompiler().compile(pairs, policed_by(pairs))


async def enforce(server: XdsServer, snapshot: Snapshot) -> None:
    settled = await server.settled(await server.publish(snapshot), WAIT)
    assert settled.acked, settled


async def refuse(server: XdsServer, snapshot: Snapshot) -> None:
    settled = await server.settled(await server.publish(snapshot), WAIT)
    assert settled.outcome is Outcome.NACKED and "no.such.Message" in settled.text, settled


@asynccontextmanager
async def serving(socket: Path) -> AsyncIterator[XdsServer]:
    running = XdsServer(socket)
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[XdsServer]:
    async with serving(tmp_path / "xds.sock") as running:
        yield running


@pytest.fixture
def envoy(tmp_path: Path) -> Iterator[LoopbackEnvoy]:
    with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER, CLIENT), ("127.0.0.1", "::1"), ports=2) as running:
        yield running


async def test_the_articles_policy_is_enforced(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    rule = allowing(
        HttpRule("/api/v1/users", "GET"),
        HttpRule("/files/.*", "GET"),
        HttpRule("/files/new/.*", "POST"),
        HttpRule("/items/[0-9]+"),
        HttpRule("/internal", headers=(HeaderMatch("x-team", "a,b"), HeaderMatch("x-debug"))),
        HttpRule("/hosted", host=r"(www\.)?example\.com"),
        GrpcRule("pkg.Users", "Get"),
    )
    await enforce(server, server_policy(rule).snapshot())
    envoy.wait_until_listening()

    def status(path: str, method: str = "GET", source: str = FRONTEND, **headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return envoy.get(source, path, method=method, headers=named).status

    allowed = envoy.get(FRONTEND, "/api/v1/users")
    assert (allowed.status, allowed.rule) == (200, str(rule.origin))
    refused = envoy.get(INTRUDER, "/api/v1/users")
    assert (refused.status, refused.rule) == (403, NO_RULE)
    assert status("/api/v1/users", source=STRANGER) == 403
    assert status("/api/v1/users", "POST") == 403
    assert status("/api/v1/users?all=1") == 403  # the path is `:path` with its query string
    assert [status("/files/a"), status("/files/"), status("/files"), status("/files/a?b")] == [200, 200, 403, 200]
    # A miss under the longer prefix falls through to the shorter one.
    assert [status("/files/new/a"), status("/files/new/a", "POST"), status("/files/a", "POST")] == [200, 200, 403]
    assert [status("/items/12"), status("/items/1a"), status("/items/")] == [200, 403, 403]
    assert status("/internal", x_team="a,b", x_debug="") == 200
    assert [status("/internal", x_team="a,b"), status("/internal", x_team="A,b", x_debug="1")] == [403, 403]
    assert [status("/hosted", host="www.example.com"), status("/hosted", host="example.com")] == [200, 200]
    assert [status("/hosted", host="exampleXcom"), status("/hosted", host="evil.example.com")] == [403, 403]
    assert [status("/pkg.Users/Get", "POST"), status("/pkg.Users/Get"), status("/pkg.Users/Set", "POST")] == [
        200,
        403,
        403,
    ]
    # Whoever forges the header that proxies write gains nothing.
    assert status("/api/v1/users", source=INTRUDER, x_forwarded_for=FRONTEND) == 403


async def test_repeated_headers_are_joined_and_odd_bytes_are_present(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    await enforce(
        server,
        server_policy(
            allowing(HttpRule("/joined", headers=(HeaderMatch("x-team", "a,b"),))),
            allowing(HttpRule("/there", headers=(HeaderMatch("x-any"),))),
        ).snapshot(),
    )
    envoy.wait_until_listening()
    for path, headers, status in (
        ("/joined", [("x-team", b"a"), ("x-team", b"b")], 200),
        ("/joined", [("x-team", b"b"), ("x-team", b"a")], 403),
        ("/there", [("x-any", b"\xff")], 200),
    ):
        with closing(envoy.connect(FRONTEND)) as connection:
            connection.putrequest("GET", path)
            for name, value in headers:
                connection.putheader(name, value)
            connection.endheaders()
            assert connection.getresponse().status == status, (path, headers)


async def test_both_directions_and_families_and_ports(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    first, second = envoy.listen[0][1], envoy.listen[1][1]
    one_port = (PortSpan(Protocol.TCP, first, first),)
    wide = (PortSpan(Protocol.TCP, min(first, second), 65535),)
    everyone = ResolvedRule(origin("everyone"), False, None, wide, HttpRules((HttpRule("/open"),)))
    to_server = ResolvedRule(origin("out"), False, frozenset({400}), one_port, HttpRules((HttpRule("/a|/open"),)))
    blocked = ResolvedRule(origin("blocked"), True, frozenset({301}), None)
    pairs = [
        (SERVER, EndpointPolicy(ingress=DirectionPolicy(True, (allowing(HttpRule("/a")), everyone, blocked)))),
        (CLIENT, EndpointPolicy(egress=DirectionPolicy(True, (to_server,)))),
    ]
    await enforce(server, NodeCompiler().compile(pairs, policed_by(pairs)).snapshot())
    envoy.wait_until_listening()
    elsewhere = "identity:300:egress:no-rule-matched"
    denied_out, denied_in = f"no-rule-matched:{origin('out')}", f"no-rule-matched:{origin('everyone')}"
    for source, target, path, expected in (
        (FRONTEND, 0, "/a", (200, str(origin("api")))),
        (FRONTEND, 0, "/open", (200, str(origin("everyone")))),
        (FRONTEND, 0, "/b", (403, denied_out)),
        (FRONTEND, 1, "/a", (403, elsewhere)),  # egress allows one port only
        ("127.0.0.23", 1, "/a", (200, str(origin("api")))),  # same labels, but no egress policy
        (STRANGER, 1, "/open", (200, str(origin("everyone")))),
        (STRANGER, 1, "/a", (403, denied_in)),
        (INTRUDER, 0, "/open", (403, str(origin("blocked")))),
        ("::1", 2, "/open", (200, str(origin("everyone")))),
        ("::1", 3, "/a", (403, denied_in)),
    ):
        answer = envoy.get(source, path, to=envoy.listen[target])
        assert (answer.status, answer.rule) == expected, (source, target, path)


async def test_a_change_is_obeyed_on_a_live_connection(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    await enforce(server, server_policy(allowing(HttpRule("/a"))).snapshot())
    envoy.wait_until_listening()
    with closing(envoy.connect(FRONTEND)) as connection:
        assert ask(connection, "/a").status == 200
        socket = connection.sock
        for path in ("/b", "/a", "/b.*"):
            await enforce(server, server_policy(allowing(HttpRule(path))).snapshot())
            assert [ask(connection, each).status for each in ("/a", "/b")] == [
                200 if path == "/a" else 403,
                403 if path == "/a" else 200,
            ]
        assert connection.sock is socket
    assert envoy.stat("http.http.downstream_cx_total") == 2  # the probe that waited for the listener, and this one


async def test_a_refused_resource_keeps_the_last_good_one(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    good = server_policy(allowing(HttpRule("/a"))).snapshot()
    await enforce(server, good)
    envoy.wait_until_listening()
    empty_map = frame(4, exact_map(DESTINATION_IP, {}))
    bad = Resource(FILTER_CONFIG, SHARD, extension(SHARD, "envoy.extensions.filters.http.rbac.v3.RBAC", empty_map))
    settled = await server.settled(await server.publish(good.joined([bad])), WAIT)
    assert settled.outcome is Outcome.NACKED and "MatchMap" in settled.text
    (entry,) = server.status().clients[0].types
    assert entry.state is SyncState.NACK
    states = {one.name: (one.state, one.held) for one in entry.resources}
    held = good.of_type(FILTER_CONFIG)[SHARD].version
    assert states.pop(SHARD) == (SyncState.NACK, held)
    assert len(states) == 2 * SHARDS - 1 and {state for state, _ in states.values()} == {SyncState.SYNCED}
    assert [envoy.get(FRONTEND, path).status for path in ("/a", "/b")] == [200, 403]
    name = f"extension_config_discovery.http_filter.{SHARD}.config_fail"
    rejected = envoy.stat(name)
    await server.settled(await server.publish(good.joined([bad])), WAIT)
    assert envoy.stat(name) == rejected == 1  # not sent again
    await enforce(server, server_policy(allowing(HttpRule("/b"))).snapshot())
    assert [envoy.get(FRONTEND, path).status for path in ("/a", "/b")] == [403, 200]


async def test_a_restarted_server_sends_nothing_needless(tmp_path: Path, envoy: LoopbackEnvoy) -> None:
    snapshot = server_policy(allowing(HttpRule("/a"))).snapshot()
    stat = f"extension_config_discovery.http_filter.{SHARD}.config_reload"
    for _ in range(3):
        async with serving(tmp_path / "xds.sock") as server:
            await enforce(server, snapshot)
            envoy.wait_until_listening()
            assert envoy.get(FRONTEND, "/a").status == 200
            assert envoy.stat(stat) == 1
        assert envoy.get(FRONTEND, "/a").status == 200  # Envoy goes on with what it has
    async with serving(tmp_path / "xds.sock") as server:
        await enforce(server, server_policy(allowing(HttpRule("/b"))).snapshot())
        assert [envoy.get(FRONTEND, path).status for path in ("/a", "/b")] == [403, 200]
        assert envoy.stat(stat) == 2


async def test_what_was_refused_is_refused_by_the_client_of_a_restarted_server(
    tmp_path: Path, envoy: LoopbackEnvoy
) -> None:
    """Envoy goes on with the good one, but has noted the bad one as its last: without another in between it would
    confirm it unseen when it comes again."""
    good = server_policy(allowing(HttpRule("/a"))).snapshot()
    for number in range(3):
        async with serving(tmp_path / "xds.sock") as server:
            if number == 0:
                await enforce(server, good)
            await refuse(server, good.joined([BAD]))
            await enforce(server, good)
            envoy.wait_until_listening()
            assert [envoy.get(FRONTEND, path).status for path in ("/a", "/b")] == [200, 403]


async def test_what_was_refused_with_nothing_before_it_denies_and_is_refused_again(
    tmp_path: Path, envoy: LoopbackEnvoy
) -> None:
    """There is nothing good that could be sent in between, so what Envoy has noted is taken away."""
    bad = server_policy(allowing(HttpRule("/a"))).snapshot().joined([BAD])
    for _ in range(3):
        async with serving(tmp_path / "xds.sock") as server:
            await refuse(server, bad)
            await refuse(server, bad)  # is answered when the answer to all that came of the refusal is there
            envoy.wait_until_listening()
            denied = envoy.get(FRONTEND, "/a")
            assert (denied.status, denied.rule) == (403, NOT_SYNCED)
    async with serving(tmp_path / "xds.sock") as server:
        await enforce(server, server_policy(allowing(HttpRule("/a"))).snapshot())
        assert envoy.get(FRONTEND, "/a").status == 200


async def test_what_is_not_published_is_denied(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    whole = server_policy(allowing(HttpRule("/a"))).snapshot()
    lacking = Snapshot.of(each for name, each in whole.of_type(FILTER_CONFIG).items() if name != SHARD)
    await server.publish(lacking)
    await asyncio.to_thread(envoy.wait_until_listening)
    assert envoy.get(FRONTEND, "/a").rule == NOT_SYNCED
    await enforce(server, whole)
    assert envoy.get(FRONTEND, "/a").status == 200
    await enforce(server, lacking)
    assert envoy.get(FRONTEND, "/a").rule == NOT_SYNCED


async def test_a_fresh_envoy_gets_the_last_good_policy(server: XdsServer, tmp_path: Path) -> None:
    good = server_policy(allowing(HttpRule("/a"))).snapshot()
    bad = Resource(FILTER_CONFIG, SHARD, extension(SHARD, "no.such.Message"))
    with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER, CLIENT)) as first:
        await enforce(server, good)
        settled = await server.settled(await server.publish(good.joined([bad])), WAIT)
        assert settled.outcome is Outcome.NACKED
        assert first.process.poll() is None
    await gone(lambda: bool(server.status().clients))
    with running_envoy(tmp_path / "xds.sock", CACHE, (SERVER, CLIENT)) as second:
        await asyncio.to_thread(second.wait_until_listening)
        assert [second.get(FRONTEND, path).status for path in ("/a", "/b")] == [200, 403]


async def gone(there: Callable[[], bool]) -> None:
    for _ in range(500):
        if not there():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


async def test_ten_thousand_paths_and_a_change(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    paths = [HttpRule(f"/api/v1/items/{number}/detail", "GET") for number in range(10_000)]
    await enforce(server, server_policy(allowing(*paths)).snapshot())
    envoy.wait_until_listening()
    assert envoy.get(FRONTEND, "/api/v1/items/9999/detail").status == 200
    assert envoy.get(FRONTEND, "/new").status == 403
    await enforce(server, server_policy(allowing(*paths[1:], HttpRule("/new"))).snapshot())
    assert envoy.get(FRONTEND, "/new").status == 200
    assert envoy.get(FRONTEND, "/api/v1/items/0/detail").status == 403


async def test_hundreds_of_regexes_in_one_alternation(server: XdsServer, envoy: LoopbackEnvoy) -> None:
    rules = [HttpRule(f".*/{number}/[a-z]+") for number in range(300)]
    await enforce(server, server_policy(allowing(*rules)).snapshot())
    envoy.wait_until_listening()
    assert [envoy.get(FRONTEND, path).status for path in ("/x/299/ab", "/0/a", "/300/a", "/1/A")] == [
        200,
        200,
        403,
        403,
    ]
