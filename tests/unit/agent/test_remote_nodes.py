"""What remote nodes are told, and in which order: a real server, and a client that speaks for a remote Envoy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio
import pytest
from lockgate.agent.remote_nodes import RemoteNodes
from lockgate.policies import Direction, World, parse_policies
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Endpoint, Workload
from lockgate.tests.unit.xds.raw_stream import DeltaRaw, Heard
from lockgate.xds import SHARDS, TABLES, Remote, XdsServer, shard_name, shard_of
from lockgate.xds.certificate_files import Credentials
from lockgate.xds.certificates import Authority
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
NAMES = {*TABLES.values(), *POLICIES}


def endpoint(name: str, number: int, node: str, **labels: str) -> Endpoint:
    workload = Workload(name, "default", tuple(sorted(labels.items())), ips=(ip_address(number),), node=node)
    return endpoint_of(workload)


def world(path: str, *endpoints: Endpoint) -> World:
    return World.of(parse_policies(POLICY.replace(b"PATH", path.encode()), "p.yaml").policies, endpoints)


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
async def nodes(server: XdsServer) -> AsyncIterator[RemoteNodes]:
    made = RemoteNodes(("a", "b"), server)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def client(server: XdsServer, authority: Authority, node: str) -> AsyncIterator[DeltaRaw]:
    own = authority.node(node)
    credentials = grpc.ssl_channel_credentials(authority.identity.certificate, own.key, own.certificate)
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.remote_port}", credentials) as opened:
        yield DeltaRaw(opened, type_url=FILTER_CONFIG, aggregated=True, node=node)


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
    before = world("one", endpoint("w", 1, "a", app="server"))
    changed = world("one", endpoint("w", 1, "a", app="server", more="labels"))
    nodes.want(before)
    async with client(server, authority, "a") as speaker:
        await all_of(speaker)
        nodes.want(changed)
        told: list[set[str]] = []
        for _ in range(6):
            heard = await speaker.hear()
            told.append(set(heard.versions))
            await speaker.ack(heard)
        assert set().union(*told[:2]) == shards(changed)
        assert set().union(*told[2:4]) == set(TABLES.values())
        assert set().union(*told[4:]) == shards(before)


async def test_a_refusal_stops_the_node_and_no_other(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    both = (endpoint("w", 1, "a", app="server"), endpoint("v", 2, "b", app="server"))
    nodes.want(first := world("one", *both))
    ingress = shard_name(Direction.INGRESS, shard_of(first.endpoints[0].identity))
    async with client(server, authority, "a") as bad, client(server, authority, "b") as good:
        for speaker in (bad, good):
            await all_of(speaker)
        changed = world("two", *both)
        nodes.want(changed)
        heard = await bad.hear()
        await bad.nack(heard, "no, not default/p:spec.ingress[0].toPorts[0]")
        other = await good.hear()
        assert set(other.versions) == set(heard.versions) == {ingress}
        await good.ack(other)
        for _ in range(500):
            problems = nodes.problems((), server.status(), changed.policies)
            if problems:
                break
            await asyncio.sleep(0.01)
        (problem,) = problems
        assert problem.startswith(f"remote node a refuses {ingress} and keeps what it had: no, not default/p")
        nodes.want(world("three", *both))
        for speaker in (bad, good):
            after = await speaker.hear()
            assert set(after.versions) == {ingress}
            await speaker.ack(after)


async def test_what_a_node_has_is_only_what_its_workloads_need(
    server: XdsServer, nodes: RemoteNodes, authority: Authority
) -> None:
    nodes.want(world("secret-path", endpoint("w", 1, "a", app="server"), endpoint("v", 2, "b", app="other")))
    async with client(server, authority, "b") as speaker:
        found = await all_of(speaker)
    assert found.keys() == NAMES
    snapshots = {node: server._latest(node).snapshot for node in ("a", "b")}
    said = {
        node: b"".join(each.body for each in found.of_type(FILTER_CONFIG).values()) for node, found in snapshots.items()
    }
    assert b"secret-path" in said["a"] and b"secret-path" not in said["b"]


def test_a_node_that_is_not_configured_is_a_problem(tmp_path: Path) -> None:
    server = XdsServer(tmp_path / "xds.sock")
    (problem,) = RemoteNodes(("a",), server).problems(
        [replace(endpoint("w", 1, "c").workload), endpoint("v", 2, "a").workload], server.status(), ()
    )
    assert problem.startswith("workload default/w is on node c, which is not among remote: nodes")
