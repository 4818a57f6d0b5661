"""Host routing as an option of the agent: policies hold as without it, and agents with and without it take over."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line, LiveNode, fetch, live_node

BY_REQUEST = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-frontend-to-backend}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}], rules: {http: [{path: /open}]}}]
"""
NOBODY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: allow-frontend-to-backend}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress: [{}]
"""


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        (made.folder / "config.yaml").write_text("host_routing: true\n")
        made.start_agent("--config", made.folder / "config.yaml")
        yield made


def straight(node: LiveNode) -> list[str]:
    """The interfaces that `lockgate datapath status` names."""
    told = node.lockgate("datapath", "status", "-o", "json").data["host_routing"]
    assert told["on"] or not told["interfaces"]
    return list(told["interfaces"])


def handed_over(node: LiveNode, line: Line) -> bool:
    """True when the node's end of the backend's veth sends nothing of what the backend gets."""

    def sent() -> int:
        told = node.node.run(["ip", "-s", "-j", "link", "show", node.backend.interface]).stdout
        return int(json.loads(told)[0]["stats64"]["tx"]["packets"])

    before = sent()
    for _ in range(20):
        assert str(line.ask()) == OK
    return sent() - before < 20


def test_it_is_told(node: LiveNode) -> None:
    assert straight(node) == sorted(pod.interface for pod in node.ground.pods)
    assert "host routing: the node's firewall and captures do not see all that pods send each other" in node.log
    assert node.backend.interface in node.lockgate("datapath", "status").out


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_policies_hold(node: LiveNode, family: int) -> None:
    backend, api = node.backend.ips[family], node.api.ips[family]
    with Line(node.frontend, backend, 8080) as line:
        assert handed_over(node, line)
    assert fetch(node.intruder, backend, 8080, patience=GLANCE) == DROPPED
    assert fetch(node.frontend, api, 80, "/api/v1/users") == OK
    assert fetch(node.frontend, api, 80, "/api/v1/admin") == DENIED
    assert fetch(node.intruder, api, 80, patience=GLANCE) == DROPPED


@pytest.mark.parametrize(("tighter", "then"), [(NOBODY, DROPPED), (BY_REQUEST, DENIED)], ids=["nobody", "by request"])
def test_what_is_tightened_ends_what_goes_straight(node: LiveNode, tighter: str, then: str) -> None:
    usual = (node.policies / "allow-frontend-to-backend.yaml").read_text()
    with Line(node.frontend, node.backend.ipv4, 8080) as line:
        assert handed_over(node, line)
        node.write("allow-frontend-to-backend", tighter)
        try:
            node.becomes(CLOSED, line.ask)
            node.becomes(then, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
        finally:
            node.write("allow-frontend-to-backend", usual)
    node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))

    def past_envoy() -> bool:
        with Line(node.frontend, node.backend.ipv4, 8080) as line:
            return handed_over(node, line)

    node.until("new connections are not Envoy's", past_envoy)  # Envoy has the usual policy before the kernel has it


def test_agents_with_and_without_it_take_over(node: LiveNode) -> None:
    config = ("--config", node.folder / "config.yaml")
    with Line(node.frontend, node.backend.ipv4, 8080) as line:
        for more in ((), config, config):
            node.end_agent()
            assert str(line.ask()) == OK
            node.start_agent(*more)
            assert bool(straight(node)) == handed_over(node, line) == bool(more)
