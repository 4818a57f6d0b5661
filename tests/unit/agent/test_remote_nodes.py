"""What remote nodes are told, and in which order: a real server, and a client that speaks for a remote Envoy."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from threading import Event
from typing import TypeVar

import grpc
import grpc.aio
import pytest
from envoy_data_plane.envoy.config.core.v3 import Node
from lockgate.agent.inspection.xds_view import rows
from lockgate.agent.remote.nodes import RemoteNodes, Wanted
from lockgate.agent.supply.intake import Intake, NoMemory, admit
from lockgate.policies import Direction, Policy, World
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Endpoint, Workload
from lockgate.store import Document, StoreContent
from lockgate.tests.unit.xds.raw_stream import DeltaRaw, Heard
from lockgate.xds import SHARDS, TABLES, Remote, XdsServer, shard_name, shard_of
from lockgate.xds.serve.certificate_files import Credentials
from lockgate.xds.serve.certificates import Authority
from lockgate.xds.snapshot import FILTER_CONFIG

POLICY = b"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /PATH}]}}]}]
"""
POLICIES = {shard_name(direction, shard) for direction in Direction for shard in range(SHARDS)}
PLACE = "spec.ingress[0].toPorts[0].rules.http"
T = TypeVar("T")
NAMES = {*TABLES.values(), *POLICIES}


def endpoint(name: str, number: int, node: str, **labels: str) -> Endpoint:
    workload = Workload(name, "default", tuple(sorted(labels.items())), ips=(ip_address(number),), node=node)
    return endpoint_of(workload)


def wanted(*policies: tuple[str, str], on: Sequence[Endpoint]) -> Wanted:
    """Policies by name with their paths, each in a file of its own."""
    text = {name: POLICY.replace(b"name: p", f"name: {name}".encode()) for name, _ in policies}
    documents = [Document(f"{name}.yaml", text[name].replace(b"PATH", path.encode())) for name, path in policies]
    intake = admit(Intake(), StoreContent(tuple(documents), ()), NoMemory())
    world_of = partial(World.of, endpoints=on)
    return Wanted(world_of(intake.policies), intake, world_of)


def shards(world: World) -> set[str]:
    """Where the policies of the one workload are."""
    (only,) = world.endpoints
    return {shard_name(direction, shard_of(only.identity)) for direction in Direction}


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
async def server(tmp_path: Path, authority: Authority) -> AsyncIterator[XdsServer]:
    credentials = Credentials(authority.server(["127.0.0.1"]), authority.identity.certificate)
    running = XdsServer(tmp_path / "xds.sock", remote=Remote("127.0.0.1", 0, credentials, frozenset({"a", "b"})))
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
async def nodes(server: XdsServer, tmp_path: Path) -> AsyncIterator[RemoteNodes]:
    made = RemoteNodes(("a", "b"), server, tmp_path)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    made.close()


class Speaker(DeltaRaw):
    """Speaks for an Envoy, and knows what it read last."""

    last = b""
    refused: tuple[str, ...] = ()  # versions

    async def _read(self) -> bytes:
        self.last = await super()._read()
        return self.last

    async def refuse(self, bad: bytes = b"/bad(/[0-9]+)?", *, telling: bool = True) -> None:
        """Answers for ever, and refuses what holds such a text; whether or not its words quote it."""
        while True:
            heard = await self.hear()
            if found := re.search(bad, self.last):
                self.refused += tuple(heard.versions.values())
                await self.nack(heard, f"'{found[0].decode()}': no room for that" if telling else "no room")
            else:
                await self.ack(heard)


@asynccontextmanager
async def client(server: XdsServer, authority: Authority, node: str) -> AsyncIterator[Speaker]:
    own = authority.node(node)
    credentials = grpc.ssl_channel_credentials(authority.identity.certificate, own.key, own.certificate)
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.remote_port}", credentials) as opened:
        yield Speaker(opened, type_url=FILTER_CONFIG, aggregated=True, node=node)


def said(server: XdsServer, node: str) -> bytes:
    """What is published for a node."""
    return b"".join(each.body for each in server._latest(node).snapshot.of_type(FILTER_CONFIG).values())


def is_told(text: bytes, found: bytes) -> bool:
    """This, and nothing bad."""
    return text in found and b"/bad" not in found


async def until(look: Callable[[], T], is_so: Callable[[T], object]) -> T:
    for _ in range(3000):
        if is_so(found := look()):
            return found
        await asyncio.sleep(0.005)
    raise TimeoutError(repr(look()))


async def all_of(speaker: DeltaRaw) -> dict[str, Heard]:
    """Everything that a fresh client gets, which it acknowledges."""
    await speaker.subscribe(*sorted(NAMES))
    found: dict[str, Heard] = {}
    while found.keys() != NAMES:
        heard = await speaker.hear()
        found |= dict.fromkeys(heard.versions, heard)
        await speaker.ack(heard)
    return found


async def test_who_leaves_is_known_to_the_policies_until_no_address_says_so(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    """Another identity at the same address: policies for both, then the table, then policies for the new one alone."""
    first = wanted(("p", "one"), on=[endpoint("w", 1, "a", app="server")])
    second = wanted(("p", "one"), on=[endpoint("w", 1, "a", app="server", more="labels")])
    before, changed = first.world, second.world
    nodes.want(first)
    async with client(server, authority, "a") as speaker:
        await all_of(speaker)
        nodes.want(second)
        told: list[set[str]] = []
        for _ in range(6):
            heard = await speaker.hear()
            told.append(set(heard.versions))
            await speaker.ack(heard)
        assert set().union(*told[:2]) == shards(changed)
        assert set().union(*told[2:4]) == set(TABLES.values())
        assert set().union(*told[4:]) == shards(before)


async def test_what_one_node_refuses_is_held_back_there_alone(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    both = (endpoint("w", 1, "a", app="server"), endpoint("v", 2, "b", app="server"))
    nodes.want(wanted(("good", "1"), ("old", "1"), on=both))
    async with (
        client(server, authority, "a") as bad,
        client(server, authority, "b") as good,
        asyncio.TaskGroup() as group,
    ):
        for speaker in (bad, good):
            await all_of(speaker)
        tasks = [group.create_task(bad.refuse()), group.create_task(good.refuse(b"nothing"))]
        second = wanted(("good", "2"), ("new", "bad/1"), ("old", "bad/2"), on=both)
        nodes.want(second)
        kept = await until(lambda: nodes.refusals["a"], lambda found: len(found) == 2)
        assert {key.name: (each.stand_in.older, each.place.path) for key, each in kept.items()} == {
            "new": (False, f"{PLACE}[0].path"),
            "old": (True, f"{PLACE}[0].path"),
        }
        assert not nodes.refusals["b"]
        problems = nodes.problems(())
        assert [each.partition(" (")[0] for each in sorted(problems)] == [
            f"new.yaml:6: {PLACE}[0].path: the Envoy of remote node a refuses policy default/new",
            f"old.yaml:6: {PLACE}[0].path: the Envoy of remote node a refuses policy default/old",
        ]
        await until(lambda: said(server, "a"), lambda found: is_told(b"/1", found) and b"/2" in found)
        assert b"/bad/1" in said(server, "b") and b"/bad/2" in said(server, "b")
        (row,) = [
            each
            for each in rows(server.status().clients, nodes.names, nodes.refusals, lambda *_: None)
            if each["node"] == "a"
        ]
        assert row["state"] == "NACK" and "policy default/new: '/bad/1': no room for that" in row["error"]

        # Whatever else changes, nothing of that is offered to it again.
        refused = bad.refused
        assert len(set(refused)) == len(refused)
        nodes.want(wanted(("good", "3"), ("new", "bad/1"), ("old", "bad/2"), on=both))
        await until(lambda: said(server, "a"), lambda found: b"/3" in found)
        assert bad.refused == refused and len(nodes.refusals["a"]) == 2
        # Mended, and deleted.
        nodes.want(wanted(("good", "3"), ("new", "fine"), on=both))
        await until(lambda: said(server, "a"), lambda found: b"/fine" in found)
        assert not nodes.refusals["a"] and not nodes.problems(())
        for task in tasks:
            task.cancel()


async def test_an_envoy_that_was_away_is_asked_when_it_comes(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    here = [endpoint("w", 1, "a", app="server")]
    nodes.want(wanted(("good", "1"), ("new", "bad"), on=here))
    await until(lambda: said(server, "a"), lambda found: b"/bad" in found)
    async with client(server, authority, "a") as speaker:
        await speaker.subscribe(*sorted(NAMES))
        task = asyncio.create_task(speaker.refuse(telling=False))
        await until(lambda: nodes.refusals["a"], bool)
        await until(lambda: said(server, "a"), lambda found: b"/bad" not in found and b"/1" in found)
        task.cancel()


async def test_another_envoy_may_refuse_what_the_one_before_took(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    nodes.want(wanted(("good", "1"), ("p", "bad"), on=[endpoint("w", 1, "a", app="server")]))
    async with client(server, authority, "a") as speaker:
        await all_of(speaker)
        await until(lambda: nodes._nodes["a"]._settled, bool)
    async with client(server, authority, "a") as other:
        await other.subscribe(*sorted(NAMES))
        task = asyncio.create_task(other.refuse(telling=False))
        await until(lambda: nodes.refusals["a"], bool)
        await until(lambda: said(server, "a"), partial(is_told, b"/1"))
        assert len(set(other.refused)) == len(other.refused), "nothing is sent again that it refused"
        task.cancel()


async def test_another_build_may_take_what_the_one_before_refused(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    nodes.want(wanted(("good", "1"), ("p", "bad"), on=[endpoint("w", 1, "a", app="server")]))
    async with client(server, authority, "a") as speaker:
        await speaker.subscribe(*sorted(NAMES))
        task = asyncio.create_task(speaker.refuse())
        await until(lambda: nodes.refusals["a"], bool)
        task.cancel()
    async with client(server, authority, "a") as other:
        other._node = Node(id="a", user_agent_name="another")
        await other.subscribe(*sorted(NAMES))
        task = asyncio.create_task(other.refuse(b"nothing"))
        await until(lambda: nodes.refusals["a"], lambda found: not found)
        await until(lambda: said(server, "a"), lambda found: b"/bad" in found)
        await until(lambda: nodes._nodes["a"]._settled, bool)
        assert nodes.problems(()) == []
        task.cancel()


async def test_the_last_good_version_there_outlives_the_agent(
    server: XdsServer, authority: Authority, tmp_path: Path
) -> None:
    here = [endpoint("w", 1, "a", app="server")]

    async def agent(*rounds: Wanted, until_said: Sequence[bytes]) -> None:
        nodes = RemoteNodes(("a",), server, tmp_path)
        running = asyncio.create_task(nodes.run())
        for each, text in zip(rounds, until_said, strict=True):
            nodes.want(each)
            await until(lambda: said(server, "a"), partial(is_told, text))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        nodes.close()

    async with client(server, authority, "a") as speaker:
        await speaker.subscribe(*sorted(NAMES))
        task = asyncio.create_task(speaker.refuse(telling=False))
        bad = wanted(("p", "bad"), ("q", "2"), on=here)
        await agent(wanted(("p", "1"), on=here), bad, until_said=(b"/1", b"/2"))
        await agent(bad, until_said=(b"/1",))
        task.cancel()


async def test_what_a_node_has_is_only_what_its_workloads_need(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    both = (endpoint("w", 1, "a", app="server"), endpoint("v", 2, "b", app="other"))
    nodes.want(wanted(("p", "secret-path"), on=both))
    async with client(server, authority, "b") as speaker:
        found = await all_of(speaker)
    assert found.keys() == NAMES
    assert b"secret-path" in said(server, "a") and b"secret-path" not in said(server, "b")


def test_a_node_that_is_not_configured_is_a_problem(tmp_path: Path) -> None:
    server = XdsServer(tmp_path / "xds.sock")
    (problem,) = RemoteNodes(("a",), server, tmp_path).problems(
        [endpoint("w", 1, "c").workload, endpoint("v", 2, "a").workload]
    )
    assert problem.startswith("workload default/w is on node c, which is not among remote: nodes")


async def test_what_could_not_be_brought_about_is_tried_again_and_told_once(
    nodes: RemoteNodes, server: XdsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockgate.agent.remote.nodes._RETRY_SECONDS", 0.01)
    works, tries = Event(), list[Sequence[Policy]]()

    def world_of(policies: Sequence[Policy], endpoints: Sequence[Endpoint]) -> World:
        if not works.is_set():
            tries.append(policies)
            raise RuntimeError("no room")
        return World.of(policies, endpoints)

    for number in (1, 2):
        made = wanted(("p", str(number)), on=[endpoint("w", 1, "a", app="server")])
        works.clear()
        tries.clear()
        nodes.want(replace(made, world_of=partial(world_of, endpoints=made.world.endpoints), exact=False))
        await until(lambda: len(tries), lambda found: found >= 3)
        (problem,) = (each for each in nodes.problems(()) if "node a " in each)
        assert "no room" in problem
        assert caplog.messages.count(problem) == number
        works.set()
        await until(lambda: said(server, "a"), partial(is_told, f"/{number}".encode()))
        await until(lambda: nodes.problems(()), lambda found: not found)
