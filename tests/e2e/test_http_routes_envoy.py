"""The listener's routes in a real Envoy: who is spared, routes that it refuses, routes that it has lost."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from lockgate.agent.force.effect_watch import EffectWatch
from lockgate.agent.force.http_side import HttpSide
from lockgate.envoy.config import http_routes
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.envoy.inspection.admin import Admin
from lockgate.policies.endpoint_policy import DirectionPolicy, EndpointPolicy, HttpRule, HttpRules, ResolvedRule
from lockgate.policies.workload import Endpoint
from lockgate.tests.e2e.redirected_envoy import (  # noqa: F401
    CLIENT,
    PATIENCE,
    SERVER,
    THE_CLIENT,
    THE_SERVER,
    namespace_of_its_own,
    ready,
    settings,
    short_run_dir,
)
from lockgate.tests.unit.agent.test_http_side import the_route
from lockgate.tests.unit.xds.policy_strategies import endpoint, origin
from lockgate.xds import ROUTE, Enforced, Outcome, Settled, Snapshot, XdsServer, policed_by

PORT = 8080
THIRD = endpoint("default/third", 500, "10.9.0.4")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def policy(path: str) -> DirectionPolicy:
    rule = ResolvedRule(origin("l7"), False, None, None, HttpRules((HttpRule(path),)))
    return DirectionPolicy(True, (rule,))


def pairs(*others: Endpoint, egress: DirectionPolicy | None = None) -> Enforced:
    return [
        (THE_CLIENT, EndpointPolicy(egress=egress or DirectionPolicy())),
        (THE_SERVER, EndpointPolicy(ingress=policy("/.*"))),
        (THIRD, EndpointPolicy(egress=policy("/"))),  # where nobody has a policy, a filter counts nothing
        *((each, EndpointPolicy()) for each in others),
    ]


class Node:
    """One connection through the node's Envoy, which is never made again."""

    def __init__(
        self, xds: XdsServer, admin: Admin, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    ) -> None:
        self._xds = xds
        self._admin = admin
        self._streams = streams

    async def ask(self) -> tuple[int, int]:
        """The status of one request, and how many policy filters let it pass."""
        before = await self._allowed()
        reader, writer = self._streams
        writer.write(b"GET /a HTTP/1.1\r\nHost: server\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
        return int(head.split()[1]), await self._allowed() - before

    async def becomes(self, answer: tuple[int, int]) -> None:
        """Envoy's workers take routes over after its ACK."""
        deadline = time.monotonic() + PATIENCE
        while (last := await self.ask()) != answer:
            assert time.monotonic() < deadline, last

    async def tell(self, snapshot: Snapshot) -> Settled:
        return await self._xds.settled(await self._xds.publish(snapshot), PATIENCE)

    async def _allowed(self) -> int:
        stats = await self._admin.stats(r"^http\.lockgate_http\.rbac\..*allowed$")
        return sum(value for value in stats.values() if isinstance(value, int))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(ANSWER)
    except asyncio.IncompleteReadError:
        writer.close()


def small(run_dir: Path) -> bytes:
    """A bootstrap with which Envoy refuses expressions of more than a few identities."""
    return bootstrap(dataclasses.replace(settings(run_dir), regex_program_size=100))


@asynccontextmanager
async def running(run_dir: Path, first: Snapshot) -> AsyncIterator[tuple[Node, XdsServer, Admin]]:
    xds = XdsServer(run_dir / "xds-5.sock")
    await xds.start()
    try:
        await xds.publish(first)
        async with ready(run_dir, small(run_dir)) as admin, await asyncio.start_server(serve, SERVER, PORT):
            streams = await asyncio.open_connection(SERVER, PORT, local_addr=(CLIENT, 0))
            try:
                yield Node(xds, admin, streams), xds, admin
            finally:
                streams[1].close()
    finally:
        await xds.stop()


async def test_of_one_connection_each_request_is_judged_by_who_is_policed_then(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_routes, "LONGEST", 50)  # an expression that such an Envoy takes
    side = HttpSide()

    def made(more: Sequence[Endpoint] = (), egress: DirectionPolicy | None = None) -> Snapshot:
        listed = pairs(*more, egress=egress)
        return side.resources(listed, policed_by(listed)).snapshot()

    async with running(run_dir, made()) as (node, xds, admin):
        await node.becomes((200, 1))
        assert (await node.tell(made(egress=policy("/b")))).acked
        await node.becomes((403, 0))
        assert (await node.tell(made(egress=policy("/a")))).acked
        await node.becomes((200, 2))
        assert (await node.tell(made())).acked
        await node.becomes((200, 1))

        # Envoy refuses the routes: those before stay, and from then on everybody is judged.
        many = [endpoint(f"default/{n}", 70_000 + 13 * n, f"10.8.0.{n}") for n in range(1, 100)]
        refused = await node.tell(made(many))
        assert refused.outcome is Outcome.NACKED
        assert [resource for resource, _ in refused.errors] == [(ROUTE, ROUTES)]
        assert "program size" in refused.text
        assert await node.ask() == (200, 1)
        assert side.gives_way(refused)
        assert (await node.tell(made(many))).acked
        await node.becomes((200, 2))
        assert "program size" in side.problem
        assert (await node.tell(made())).acked
        assert side.problem == ""
        await node.becomes((200, 1))

        # The server is made to believe in an ACK that never came.
        watch = EffectWatch(xds, "test", run_dir / "admin.sock")
        assert await watch.look(admin) == ()
        lost = made(egress=policy("/b"))
        (client,) = xds._clients.values()
        client.stream.subscriptions[ROUTE]._known[ROUTES] = the_route(lost).version
        assert (await node.tell(lost)).acked
        assert await node.ask() == (200, 1)
        (drift,) = await watch.look(admin, everything=False)
        assert (drift.resource.type_url, drift.resource.name) == (ROUTE, ROUTES)
        watch._conclude((drift,))
        await node.becomes((403, 0))
        assert await watch.look(admin) == ()
