"""Random policies with header actions in the node's real Envoy: verdicts, what servers get and what is logged."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from lockgate.agent.force.http_side import HttpResources, HttpSide
from lockgate.envoy.config.access_log import FILE_NAME, parse
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.inspection.admin import Admin
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
    HeaderMatch,
    HttpRule,
    HttpRules,
    MismatchAction,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.header_action import HeaderAction
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.e2e.redirected_envoy import (  # noqa: F401
    CLIENT,
    OTHER_CLIENT,
    SERVER,
    THE_CLIENT,
    THE_SERVER,
    namespace_of_its_own,
    ready,
    short_run_dir,
    until,
)
from lockgate.tests.e2e.redirected_envoy import settings as bootstrap_settings
from lockgate.tests.unit.xds.policy_strategies import changing_directions, origin, requests
from lockgate.xds import Snapshot, XdsServer, policed_by

PORT = 8080
WAIT = 15.0
IDENTITIES = {CLIENT: 300, OTHER_CLIENT: 301, SERVER: 400}
# What the client or Envoy writes for the sake of the connection, not of the policy.
OWN = frozenset({"host", "content-length"})


policies = changing_directions(PORT, [300, 301, 400, 9])


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]  # that the server got, repeated ones joined


class Node:
    """The node's Envoy, its xDS server, and a server behind it that answers with the headers it got."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.xds = XdsServer(run_dir / "xds-5.sock")
        self.admin: Admin | None = None
        self._http = HttpSide()
        self._streams: dict[str, tuple[asyncio.StreamReader, asyncio.StreamWriter]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                got: dict[str, str] = {}
                for line in head.decode().split("\r\n")[1:-2]:
                    name, _, value = line.partition(":")
                    key, value = name.lower(), value.strip()
                    got[key] = f"{got[key]},{value}" if key in got else value
                body = json.dumps(got).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    async def enforce(self, ingress: DirectionPolicy, egress: DirectionPolicy) -> HttpResources:
        pairs = [(THE_SERVER, EndpointPolicy(ingress=ingress)), (THE_CLIENT, EndpointPolicy(egress=egress))]
        resources = self._http.resources(pairs, policed_by(pairs))
        await self.tell(resources.snapshot())
        return resources

    async def tell(self, snapshot: Snapshot) -> None:
        settled = await self.xds.settled(await self.xds.publish(snapshot), WAIT)
        assert settled.acked, settled

    async def ask(self, source: str, request: HttpRequest) -> Answer:
        if source not in self._streams:
            self._streams[source] = await asyncio.open_connection(SERVER, PORT, local_addr=(source, 0))
        reader, writer = self._streams[source]
        lines = [f"{request.method} {request.path} HTTP/1.1", f"Host: {request.host}"]
        lines += [f"{name}: {value}" for name, joined in request.headers.items() for value in joined.split(",")]
        if request.method != "GET":
            lines.append("Content-Length: 0")
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
        length = next(int(line[15:]) for line in head if line.lower().startswith(b"content-length:"))
        body = await reader.readexactly(length)
        status = int(head[0].split()[1])
        got = json.loads(body) if status == 200 else {}
        return Answer(status, {name: value for name, value in got.items() if name not in OWN})

    def close(self) -> None:
        for _, writer in self._streams.values():
            writer.close()


@asynccontextmanager
async def running(run_dir: Path) -> AsyncIterator[Node]:
    node = Node(run_dir)
    await node.xds.start()
    try:
        await node.xds.publish(HttpSide().resources([], frozenset()).snapshot())
        async with (
            ready(run_dir, bootstrap(bootstrap_settings(run_dir))) as node.admin,
            await asyncio.start_server(node.serve, SERVER, PORT),
        ):
            yield node
            node.close()
    finally:
        await node.xds.stop()


@dataclass(frozen=True, slots=True)
class Expected:
    status: int
    headers: dict[str, str]
    logged: tuple[str, ...]


def expected(source: str, request: HttpRequest, ingress: DirectionPolicy, egress: DirectionPolicy) -> Expected:
    logged: list[str] = []
    for policy, peer in ((egress if source == CLIENT else DirectionPolicy(), 400), (ingress, IDENTITIES[source])):
        if not policy.redirects:
            continue  # the kernel's affair
        found = judge(policy, peer, Protocol.TCP, PORT, request)
        if found.verdict is not Verdict.ALLOW:
            return Expected(403, {}, tuple(logged))
        logged += names_logged(found.actions)
        request = request.after(found.actions)
    return Expected(200, dict(request.headers), tuple(logged))


def names_logged(actions: tuple[HeaderAction, ...]) -> list[str]:
    return sorted({action.name for action in actions if action.action is MismatchAction.LOG})


def test_servers_get_what_the_verdict_function_says(run_dir: Path) -> None:
    seen = Counter[str]()
    lines: list[tuple[int, set[str]]] = []
    with asyncio.Runner() as runner:
        context = running(run_dir)
        node = runner.run(context.__aenter__())
        try:

            async def check(
                ingress: DirectionPolicy, egress: DirectionPolicy, flows: list[tuple[str, HttpRequest]]
            ) -> None:
                resources = await node.enforce(ingress, egress)
                assert not resources.refused
                for source, request in flows:
                    wanted = expected(source, request, ingress, egress)
                    answer = await node.ask(source, request)
                    assert (answer.status, answer.headers) == (wanted.status, wanted.headers), (source, request)
                    seen[str(answer.status)] += 1
                    seen["changed"] += answer.status == 200 and answer.headers != request.headers
                    if wanted.logged or wanted.status == 403:
                        lines.append((wanted.status, set(wanted.logged)))

            @seed(1)  # what is found depends on luck, and the last assertion wants enough of it
            @settings(max_examples=120, deadline=None, database=None, suppress_health_check=list(HealthCheck))
            @given(
                policies,
                st.one_of(policies, st.just(DirectionPolicy())),
                st.lists(st.tuples(st.sampled_from([CLIENT, OTHER_CLIENT]), requests), min_size=12, max_size=24),
            )
            def agrees(ingress: DirectionPolicy, egress: DirectionPolicy, flows: list[tuple[str, HttpRequest]]) -> None:
                runner.run(check(ingress, egress, flows))

            agrees()
            runner.run(until("every line is written", lambda: all_written(run_dir, len(lines))))
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert min(seen["200"], seen["403"], seen["changed"]) > 50, seen
    logged = [parse(line) for line in (run_dir / FILE_NAME).read_text().splitlines()]
    assert [(each.code, {note.split(" ")[1] for note in each.mismatches}) for each in logged] == lines


async def all_written(run_dir: Path, count: int) -> bool:
    return (run_dir / FILE_NAME).read_text().count("\n") >= count


def acting(*headers: HeaderMatch, path: str | None = None, name: str = "p") -> DirectionPolicy:
    rules = HttpRules((HttpRule(path, headers=headers),))
    return DirectionPolicy(
        True, (ResolvedRule(origin(name), False, None, (PortSpan(Protocol.TCP, PORT, PORT),), rules),)
    )


OPEN = DirectionPolicy()


async def test_the_servers_policy_sees_what_the_clients_left(run_dir: Path) -> None:
    token = HeaderMatch("x-token", "hush", MismatchAction.REPLACE, secret=True)
    demanded = HeaderMatch("x-token", "hush", secret=True)
    async with running(run_dir) as node:
        await node.enforce(acting(demanded), acting(token))
        request = HttpRequest("GET", "/", "api", {"x-token": "forged"})
        assert await node.ask(CLIENT, request) == Answer(200, {"x-token": "hush"})
        assert (await node.ask(OTHER_CLIENT, request)).status == 403
        await node.enforce(acting(demanded), OPEN)
        assert (await node.ask(CLIENT, request)).status == 403


async def test_as_many_decisions_as_fit_are_parsed_by_envoy(run_dir: Path) -> None:
    """Nine regexes that may all match come to 512 outcomes, nine of them deep."""
    changes = tuple(
        HttpRule(f"/.*{number}.*", headers=(HeaderMatch(f"x-{number}", "1", MismatchAction.REPLACE),))
        for number in range(9)
    )
    methods = tuple(HttpRule(method, method=method, host=f"{method}.*b.*") for method in ("GET", "PUT.*T"))
    rule = ResolvedRule(
        origin("p"), False, None, (PortSpan(Protocol.TCP, PORT, PORT),), HttpRules((*methods, *changes))
    )
    async with running(run_dir) as node:
        resources = await node.enforce(DirectionPolicy(True, (rule,)), OPEN)
        assert not resources.refused
        everything = await node.ask(CLIENT, HttpRequest("GET", "/012345678", "api"))
        assert everything == Answer(200, {f"x-{number}": "1" for number in range(9)})
        assert await node.ask(CLIENT, HttpRequest("GET", "/07", "api")) == Answer(200, {"x-0": "1", "x-7": "1"})


async def test_a_change_of_policy_and_its_headers_reach_a_live_connection(run_dir: Path) -> None:
    request = HttpRequest("GET", "/", "api", {"x-role": "admin"})
    async with running(run_dir) as node:
        for role in ("guest", "user", "guest"):
            await node.enforce(acting(HeaderMatch("x-role", role, MismatchAction.REPLACE)), OPEN)
            assert await node.ask(CLIENT, request) == Answer(200, {"x-role": role})
        await node.enforce(acting(HeaderMatch("x-role", "guest", MismatchAction.DELETE)), OPEN)
        assert await node.ask(CLIENT, request) == Answer(200, {})
        await node.enforce(acting(), OPEN)
        assert await node.ask(CLIENT, request) == Answer(200, {"x-role": "admin"})
        assert node.admin is not None
        assert (await node.admin.stats(r"^listener\.lockgate_http\.downstream_cx_total$")) == {
            "listener.lockgate_http.downstream_cx_total": 1
        }


async def test_no_request_slips_through_unchanged_while_policies_change(run_dir: Path) -> None:
    """One request runs through one version of both, the verdict and what is done to headers."""
    policies = {
        path: acting(HeaderMatch("x-role", path, MismatchAction.REPLACE), path=path, name=path[1:])
        for path in ("/a", "/b")
    }
    seen = Counter[tuple[str, str]]()
    async with running(run_dir) as node:
        await node.enforce(policies["/a"], OPEN)

        async def load(source: str, path: str) -> None:
            request = HttpRequest("GET", path, "api", {"x-role": "forged"})
            while True:
                answer = await node.ask(source, request)
                seen[path, answer.headers.get("x-role", str(answer.status))] += 1

        tasks = [asyncio.create_task(load(CLIENT, "/a")), asyncio.create_task(load(OTHER_CLIENT, "/b"))]
        for number in range(60):
            await node.enforce(policies["/b" if number % 2 == 0 else "/a"], OPEN)
            await asyncio.sleep(0.005)
        for task in tasks:
            assert not task.done()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert {answer for path, answer in seen if path == "/a"} == {"/a", "403"}
    assert {answer for path, answer in seen if path == "/b"} == {"/b", "403"}
