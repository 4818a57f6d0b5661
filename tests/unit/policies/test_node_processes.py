"""Processes of the node as endpoints: what they are to others, and what their own policies say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from lockgate.policies import Flow, HttpRequest, Verdict, World, explain, parse_policies, parse_workloads
from lockgate.policies.endpoint_policy import Direction, Protocol
from lockgate.policies.identity import endpoint_of
from lockgate.redirect.plan import GROUP_ENDPOINT
from lockgate.redirect.plan import Verdict as Kernel
from lockgate.redirect.planner import Planner

HOST = "10.0.0.254"
GROUP = GROUP_ENDPOINT | 4711
WORKLOADS = """
workloads:
- {name: client, labels: {app: client}, ips: [10.0.0.1]}
- {name: other, labels: {app: other}, ips: [10.0.0.2]}
- {name: service, labels: {app: service}, cgroup: /a.service}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: service}
spec:
  endpointSelector: {matchLabels: {app: service}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
    - ports: [{port: "81", protocol: TCP}]
      rules: {http: [{method: GET}]}
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
  - toEndpoints: [{matchLabels: {app: other}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: other}
spec:
  endpointSelector: {matchLabels: {app: other}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
"""
NODE = """
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
"""


def world_of(policy: str = POLICY) -> World:
    parsed = parse_policies(policy.encode(), "p.yaml")
    assert parsed.problems == ()
    workloads = parse_workloads(WORKLOADS.encode(), "w.yaml").workloads
    return World.of(parsed.policies, map(endpoint_of, workloads), hosts=[ip_address(HOST)])


FLOWS = [
    ("client", "service", 80, Verdict.ALLOW),
    ("client", "service", 81, Verdict.DENY),  # no proxy takes it up
    ("other", "service", 80, Verdict.DENY),
    ("192.0.2.9", "service", 80, Verdict.DENY),
    ("reserved:host", "service", 81, Verdict.ALLOW),
    (HOST, "service", 9, Verdict.ALLOW),
    ("127.0.0.1", "service", 9, Verdict.ALLOW),
    ("service", "192.0.2.9", 443, Verdict.ALLOW),
    ("service", "192.0.2.9", 444, Verdict.DENY),
    ("service", "other", 9, Verdict.ALLOW),  # to which it is the node
    ("service", "client", 9, Verdict.DENY),
    ("service", "127.0.0.1", 9, Verdict.DENY),
    ("service", HOST, 9, Verdict.DENY),
]


@pytest.mark.parametrize(("source", "destination", "port", "verdict"), FLOWS)
def test_both_directions(source: str, destination: str, port: int, verdict: Verdict) -> None:
    assert explain(world_of(), Flow(source, destination, port)).verdict is verdict


def test_the_kernels_plan_says_the_same() -> None:
    world = world_of()
    ends = [(each, world.policy_of(each)) for each in world.endpoints]
    numbers = {"service": GROUP, "client": 7, "other": 8}
    local = [(replace(each, ifindex=numbers[each.workload.name]), policy) for each, policy in ends]
    plan = Planner().plan(local, world.ipcache)
    addresses = {"client": "10.0.0.1", "other": "10.0.0.2", "reserved:host": HOST}
    for source, destination, port, verdict in FLOWS:
        leaving = source == "service"
        peer = destination if leaving else source
        direction = Direction.EGRESS if leaving else Direction.INGRESS
        found = plan.judge_group(GROUP, direction, ip_address(addresses.get(peer, peer)), Protocol.TCP, port)
        assert found.verdict is (Kernel.ALLOW if verdict is Verdict.ALLOW else Kernel.DENY), (source, destination)


def test_a_request_does_not_help_where_no_proxy_reads_it() -> None:
    said = explain(world_of(), Flow("client", "service", 81, request=HttpRequest("GET", "/")))
    assert said.verdict is Verdict.DENY
    assert said.reason.startswith(
        "ingress: a rule judges its requests, and no proxy takes up what processes of the node"
    )


def test_the_policies_of_the_node_count_too() -> None:
    """Not at loopback, where those of the node are not asked."""
    world = world_of(POLICY + NODE)
    assert explain(world, Flow("client", "service", 80)).verdict is Verdict.DENY
    assert explain(world, Flow("client", "service", 22)).verdict is Verdict.DENY
    assert explain(world, Flow("reserved:host", "service", 80)).verdict is Verdict.ALLOW
    assert explain(world, Flow("service", "192.0.2.9", 443)).verdict is Verdict.ALLOW
