"""nodeSelector: the node itself as a subject, by its labels and by nothing else."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lockgate.policies import Flow, Protocol, Verdict, World, explain, parse_policies, parse_workloads
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.lint import lint
from lockgate.redirect.plan import Verdict as Kernel
from lockgate.redirect.planner import Planner

HOST = "10.0.0.254"
WORKLOADS = """
workloads:
- {name: client, labels: {app: client}, ips: [10.0.0.1]}
- {name: other, labels: {app: other}, ips: [10.0.0.2]}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "443", protocol: TCP}]}]
"""


def world_of(policy: str = POLICY, **labels: str) -> World:
    parsed = parse_policies(policy.encode(), "p.yaml")
    assert parsed.problems == ()
    return World.of(
        parsed.policies,
        map(endpoint_of, parse_workloads(WORKLOADS.encode(), "w.yaml").workloads),
        hosts=[ip_address(HOST)],
        node_labels=labels,
    )


def test_who_is_selected() -> None:
    assert world_of().host is None
    assert world_of(role="core").host is None
    world = world_of(role="edge")
    assert world.host is not None
    assert world.policy_of(world.host).ingress.default_deny and world.policy_of(world.host).egress.default_deny
    assert not any(world.policies_of(endpoint) for endpoint in world.endpoints), "endpoints are not the node"
    everybody = world_of(POLICY.replace("{matchLabels: {role: edge}}", "{}"))
    assert everybody.host is not None
    by_label = POLICY.replace("{matchLabels: {role: edge}}", "{matchLabels: {'reserved:host': ''}}")
    assert world_of(by_label.replace("nodeSelector", "endpointSelector")).host is None, "the node is no endpoint"


FLOWS = [
    ("client", "reserved:host", 22, Verdict.ALLOW),
    ("client", HOST, 23, Verdict.DENY),
    ("other", HOST, 22, Verdict.DENY),
    ("192.0.2.9", HOST, 22, Verdict.DENY),
    ("reserved:host", "192.0.2.9", 443, Verdict.ALLOW),
    (HOST, "192.0.2.9", 80, Verdict.DENY),
    (HOST, "client", 443, Verdict.DENY),
]


@pytest.mark.parametrize(("source", "destination", "port", "verdict"), FLOWS)
def test_both_directions(source: str, destination: str, port: int, verdict: Verdict) -> None:
    said = explain(world_of(role="edge"), Flow(source, destination, port))
    assert said.verdict is verdict
    assert explain(world_of(), Flow(source, destination, port)).verdict is Verdict.ALLOW


def test_the_kernels_plan_says_the_same() -> None:
    world = world_of(role="edge")
    assert world.host is not None
    plan = Planner().plan([], world.ipcache, host=world.policy_of(world.host))
    addresses = {"client": "10.0.0.1", "other": "10.0.0.2", "reserved:host": HOST}
    for source, destination, port, verdict in FLOWS:
        client, server = (ip_address(addresses.get(each, each)) for each in (source, destination))
        found = plan.judge(client, server, Protocol.TCP, port).verdict
        assert found is (Kernel.ALLOW if verdict is Verdict.ALLOW else Kernel.DENY), (source, destination, port)
    without = Planner().plan([], world.ipcache)
    assert without.endpoints == {} and without.policy == {}


def test_lint_does_not_look_for_workloads() -> None:
    assert lint(world_of(role="edge")) == ()
