"""Connections that Envoy carries for an address which is somebody else's now, or shows another name."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.applier import Applier
from lockgate.policies import World, parse_policies
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.proxy_sockets import Carried
from lockgate.redirect.socket_diag import FoundSocket
from lockgate.tests.unit.agent.recorded_node import HTTP_PORT, KAFKA, L4, TLS, Recorded, carried, world
from lockgate.xds import XdsServer


async def test_what_is_carried_for_an_address_in_other_hands_is_ended_when_the_kernel_knows_better(
    node: Recorded, applier: Applier
) -> None:
    before = world(L4)
    await applier.apply(before)
    node.events.clear()
    node.carries = carried()
    await applier.apply(World.of(before.policies, before.endpoints))
    assert node.events == ["publish", "wait", "maps"]
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    await applier.apply(World.of(before.policies, [relabelled, server]))
    assert node.events[3:] == ["publish", "wait", "maps", "end client's server's", "publish"]
    node.events.clear()
    node.carries = carried()
    await applier.apply(World.of(before.policies, [relabelled]))
    assert node.events[:4] == ["publish", "wait", "maps", "end client's server's"]


async def test_what_could_not_be_ended_is_a_problem_and_tried_again(node: Recorded, applier: Applier) -> None:
    before = world(L4)
    await applier.apply(before)
    node.carries, node.unable = carried(), True
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    after = World.of(before.policies, [relabelled, server])
    for _ in range(2):
        (problem,) = (await applier.apply(after)).problems
        assert "go on as they were made: the kernel cannot" in problem
    node.unable = False
    assert await applier.apply(after) == Applied()
    assert node.events[-1] == "end client's server's" and not node.carries
    node.events.clear()
    assert await applier.apply(after) == Applied()
    assert node.events == ["publish", "wait", "maps"]


async def test_an_earlier_agents_connections_are_who_the_kernel_says_made_them(
    node: Recorded, applier: Applier
) -> None:
    now = world(L4)
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    await first.apply(now)
    client, server = (endpoint.identity for endpoint in now.endpoints)
    mine, others = sorted(carried(), key=lambda each: each.found.number)
    node.carries = {mine, others}
    node.made = {mine: (client, server), others: (4711 << 8, client)}
    await applier.apply(now)
    assert node.carries == {mine} and "end server's" in node.events
    node.made[mine] = node.made[others]
    await applier.apply(now)
    assert node.carries == {mine}, "the kernel is asked once: from then on this agent knows"


NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toFQDNs: [{matchName: one.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /one}]}}]
  - toFQDNs: [{matchName: two.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {RULES}}]
"""


@pytest.mark.parametrize(("rules", "ends"), [("{http: [{path: /two}]}", False), ("{kafka: [{role: produce}]}", True)])
async def test_an_answer_that_shows_another_name_ends_what_it_forbids(
    node: Recorded, applier: Applier, rules: str, ends: bool
) -> None:
    """Both names together mean two proxies for one port, or more requests that are allowed."""
    address, other = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    (one, two) = (frozenset({"one.example"}), frozenset({"two.example"}))
    policies = parse_policies(NAMES.replace("{RULES}", rules).encode(), "p.yaml").policies
    names = {"one.example": frozenset({address, other}), "two.example": frozenset({other})}
    await applier.apply(World.of(policies, world().endpoints, names=names))
    kept = Carried(ip_address("10.0.0.1"), 40000, other, 80, True, FoundSocket(2, b"kept"))
    over = Carried(ip_address("10.0.0.1"), 40001, address, 80, True, FoundSocket(2, b"over"))
    node.carries = {kept, over}
    node.events.clear()
    assert await applier.readdress({address: one | two})
    assert node.events == ["addresses", *(["end over"] if ends else [])]
