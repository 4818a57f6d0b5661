"""Nodes of a cluster: who is meant by remote-node and kube-apiserver."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from lockgate.policies import Flow, Verdict, World, endpoint_of, explain, parse_policies, parse_workloads
from lockgate.policies.identity import Reserved
from lockgate.policies.workload import Workload

NODES = b"""
nodes:
- {name: worker-2, ips: [192.0.2.2, "2001:db8::2"], labels: {zone: b}}
- {name: control-1, ips: [192.0.2.1, 192.0.2.4]}
- {name: kubernetes.default, ips: [192.0.2.1, 10.96.0.1], apiserver: true}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  egress: [{toEntities: [ENTITY]}]
"""
CLIENT = Workload("client", "default", (), interface="veth0", ips=(ip_address("10.0.0.1"),))
PEERS = ("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::2", "10.96.0.1")


def world(entity: str, hosts: tuple[str, ...] = (), nodes: bytes = NODES, previous: World | None = None) -> World:
    parsed = parse_workloads(nodes, "nodes.yaml")
    assert not parsed.problems
    policies = parse_policies(POLICY.replace("ENTITY", entity).encode(), "p.yaml").policies
    own = [ip_address(each) for each in hosts]
    return World.of(policies, [endpoint_of(CLIENT, 7)], hosts=own, nodes=parsed.nodes, previous=previous)


def allowed(made: World) -> set[str]:
    """Whom the one pod may ask."""
    return {peer for peer in PEERS if explain(made, Flow("client", peer, 80)).verdict is Verdict.ALLOW}


@pytest.mark.parametrize(
    ("entity", "hosts", "meant"),
    [
        ("remote-node", (), {"192.0.2.1", "192.0.2.2", "192.0.2.4", "2001:db8::2", "10.96.0.1"}),
        ("kube-apiserver", (), {"192.0.2.1", "10.96.0.1"}),
        ("host", ("192.0.2.2",), {"192.0.2.2"}),
        ("remote-node", ("192.0.2.2", "2001:db8::2"), {"192.0.2.1", "192.0.2.4", "10.96.0.1"}),
        # The API on this very node: its processes are both.
        ("kube-apiserver", ("192.0.2.1",), {"192.0.2.1", "10.96.0.1"}),
        ("host", ("192.0.2.1",), {"192.0.2.1"}),
        ("world", (), {"192.0.2.3"}),
    ],
)
def test_whom_an_entity_means(entity: str, hosts: tuple[str, ...], meant: set[str]) -> None:
    assert allowed(world(entity, hosts)) == meant


def test_a_node_that_comes_or_goes_is_a_change() -> None:
    before = world("remote-node")
    after = world("remote-node", nodes=b"nodes: [{name: worker-3, ips: [192.0.2.3]}]", previous=before)
    assert not before.tells_the_same(after)
    assert allowed(after) == {"192.0.2.3"}
    assert before.tells_the_same(world("remote-node", previous=before))


def test_a_pods_address_is_the_pods() -> None:
    made = world("remote-node", nodes=b"nodes: [{name: odd, ips: [10.0.0.1]}]")
    assert made.identity_at(ip_address("10.0.0.1")) == made.endpoints[0].identity


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{ips: [192.0.2.1]}", "the entry has no name; write name: and the node's name"),
        ("{name: A/b}", "'A/b' is not a name"),
        ("{name: a, ips: [x]}", "'x' is not an IP address"),
        ("{name: a, apiserver: 1}", "true or false expected"),
        ("{name: a, ip: [192.0.2.1]}", "unknown field 'ip'; did you mean 'ips'?"),
        ("{name: a, labels: {x: 'a b'}}", "'a b' is not a label value"),
    ],
)
def test_what_is_wrong_with_an_entry(entry: str, words: str) -> None:
    parsed = parse_workloads(f"nodes:\n- {entry}\n- {{name: good}}\n".encode(), "w.yaml")
    (problem,) = parsed.problems
    assert words in str(problem)
    assert [node.name for node in parsed.nodes] == ["good"]
    assert parsed.unreadable or parsed.broken_nodes == {"a"}


def test_a_node_twice() -> None:
    parsed = parse_workloads(b"nodes: [{name: a, ips: [192.0.2.1]}, {name: a}]", "w.yaml")
    assert "the node a is listed twice" in str(parsed.problems[0])
    assert [str(ip) for node in parsed.nodes for ip in node.ips] == ["192.0.2.1"]


def test_numbers_are_those_of_the_reference() -> None:
    made = world("host")
    assert made.identity_at(ip_address("192.0.2.2")) == Reserved.REMOTE_NODE
    assert made.identity_at(ip_address("10.96.0.1")) == Reserved.KUBE_APISERVER
