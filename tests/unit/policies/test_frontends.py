"""Who serves behind a service's address, and what `explain` says of it."""

from __future__ import annotations

import pytest
from lockgate.policies import Flow, FlowError, Protocol, Verdict, World, explain, parse_policies, parse_workloads
from lockgate.policies.identity import endpoint_of

WORKLOADS = """
workloads:
- {name: v1, labels: {app: shop, version: v1}, ips: [10.0.0.1, "fd00::1"], ports: {web: 8080}}
- {name: v2, labels: {app: shop, version: v2}, ips: [10.0.0.2, "fd00::2"], ports: {web: 9090}}
- {name: old, labels: {app: shop}, ips: [10.0.0.3]}
- {name: stranger, namespace: other, labels: {app: shop}, ips: [10.0.0.4], ports: {web: 1}}
- {name: client, labels: {app: client}, ips: [10.0.0.9]}
"""
SERVICE = """
services:
- name: shop
  selector: {app: shop}
  vips: [10.96.0.1, "fd00:96::1"]
  ports: [{port: 80, targetPort: web}, {port: 81}, {port: 53, protocol: UDP}]
  backends:
  - {selector: {version: v2}, weight: 3}
  - {ip: 192.0.2.7, port: 7000, weight: 0}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toEndpoints: [{matchLabels: {version: v1}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""
TO_SERVICE = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress: [{toServices: [{k8sService: {serviceName: shop}}]}]
"""


def world_of(services: str = SERVICE, policy: str = "", hosts: tuple[str, ...] = ()) -> World:
    from ipaddress import ip_address

    parsed = parse_workloads((WORKLOADS + services).encode(), "w.yaml")
    assert parsed.problems == ()
    return World.of(
        parse_policies(policy.encode(), "p.yaml").policies,
        map(endpoint_of, parsed.workloads),
        services=parsed.services,
        hosts=map(ip_address, hosts),
    )


def served(world: World) -> dict[str, dict[str, int]]:
    return {
        str(frontend): {str(backend): weight for backend, weight in answering.backends.items()}
        for frontend, answering in world.frontends.answering.items()
    }


def test_backends_by_selector_port_name_and_weight() -> None:
    assert served(world_of()) == {
        "10.96.0.1:80/TCP": {"10.0.0.2:9090": 3, "192.0.2.7:7000": 0, "10.0.0.1:8080": 1},
        "10.96.0.1:81/TCP": {"10.0.0.2:81": 3, "192.0.2.7:7000": 0, "10.0.0.1:81": 1, "10.0.0.3:81": 1},
        "10.96.0.1:53/UDP": {"10.0.0.2:53": 3, "192.0.2.7:7000": 0, "10.0.0.1:53": 1, "10.0.0.3:53": 1},
        "[fd00:96::1]:80/TCP": {"[fd00::2]:9090": 3, "[fd00::1]:8080": 1},
        "[fd00:96::1]:81/TCP": {"[fd00::2]:81": 3, "[fd00::1]:81": 1},
        "[fd00:96::1]:53/UDP": {"[fd00::2]:53": 3, "[fd00::1]:53": 1},
    }


def test_nobody_talks_to_the_address_itself() -> None:
    world = world_of()
    assert {world.identity_at(vip) for vip in world.frontends.vips} == {0}
    assert world.with_addresses(dict.fromkeys(world.frontends.vips, frozenset({"x.test"}))) is world


def test_an_address_that_somebody_has_is_not_the_services() -> None:
    twice = SERVICE + "- {name: second, vips: [10.0.0.3, 10.96.0.1], ports: [{port: 80}, {port: 90}]}\n"
    world = world_of(twice, hosts=("fd00:96::1",))
    assert [str(vip) for vip in world.frontends.vips] == ["10.96.0.1"]
    assert world.frontends.problems == (
        "service default/shop: fd00:96::1 is an address of this node, so it cannot be the service's; "
        "choose one that nobody has",
        "service default/second: 10.0.0.3 is an address of workload default/old, so it cannot be the service's; "
        "choose one that nobody has",
        "service default/second: 10.96.0.1:80/TCP already is the address of service default/shop; "
        "it stays with the first: correct one of them",
    )
    assert served(world)["10.96.0.1:90/TCP"] == {}
    assert world.identity_at(next(ip for each in world.endpoints if each.workload.name == "old" for ip in each.ips)) > 1


def test_an_address_of_another_node_is_not_the_services() -> None:
    nodes = 'nodes:\n- {name: beside, ips: [10.96.0.1]}\n- {name: api, ips: ["fd00:96::1"], apiserver: true}\n'
    parsed = parse_workloads((WORKLOADS + SERVICE + nodes).encode(), "w.yaml")
    world = World.of((), map(endpoint_of, parsed.workloads), services=parsed.services, nodes=parsed.nodes)
    assert served(world) == {}
    assert [problem.partition(" is ")[2].partition(",")[0] for problem in world.frontends.problems] == [
        "an address of another node",
        "an address of the cluster's API",
    ]


def test_explain_judges_every_backend() -> None:
    world = world_of(policy=POLICY)
    said = explain(world, Flow("client", "10.96.0.1", 80))
    assert said.verdict is Verdict.DENY
    assert said.reason.startswith("service default/shop: 1 of 2 backends are denied; 10.0.0.2:9090: egress: ")
    assert [(str(each.backend), each.weight, each.explanation.verdict) for each in said.backends] == [
        ("10.0.0.2:9090", 3, "deny"),
        ("10.0.0.1:8080", 1, "allow"),
    ]
    shown = said.to_json()
    assert (shown["service"], shown["to"]["name"]) == ("default/shop", "service default/shop (10.96.0.1)")
    assert [each["verdict"] for each in shown["backends"]] == ["deny", "allow"]
    assert shown["egress"]["verdict"] == "deny"


def test_to_services_means_all_who_serve_at_their_own_ports() -> None:
    world = world_of(policy=TO_SERVICE)
    said = explain(world, Flow("client", "10.96.0.1", 80))
    assert (said.verdict, said.reason) == (
        Verdict.ALLOW,
        "service default/shop leads to 2 backends, and none is denied",
    )
    assert explain(world, Flow("client", "192.0.2.7", 7000)).verdict is Verdict.ALLOW
    assert explain(world, Flow("client", "192.0.2.8", 7000)).verdict is Verdict.DENY


@pytest.mark.parametrize(
    ("port", "protocol", "words"),
    [
        (82, Protocol.TCP, "service default/shop has no port 82/TCP: connections are refused"),
        (80, Protocol.UDP, "service default/shop has no port 80/UDP: connections are refused"),
    ],
)
def test_what_the_address_does_not_serve(port: int, protocol: Protocol, words: str) -> None:
    said = explain(world_of(), Flow("client", "10.96.0.1", port, protocol))
    assert (said.verdict, said.reason) == (Verdict.DENY, words)
    assert said.to_json()["backends"] == []


def test_a_service_without_backends_and_a_service_as_client() -> None:
    empty = "services: [{name: none, vips: [10.96.0.1], ports: [{port: 80}]}]\n"
    said = explain(world_of(empty), Flow("client", "10.96.0.1", 80))
    assert said.verdict is Verdict.DENY and "has no backends for this port" in said.reason
    with pytest.raises(FlowError, match=r"10\.96\.0\.1 is a service's address: nobody sends from it"):
        explain(world_of(), Flow("10.96.0.1", "10.96.0.1", 80))
