"""How many series a node has: bounded, whatever users write."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from lockgate.tests.e2e.live_node import DENIED, OK, LiveNode, fetch, live_node
from lockgate.tests.e2e.test_effect import metrics
from lockgate.tests.unit.agent.test_metrics import samples

ENDPOINTS, POLICIES = 50, 5000
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: pNUMBER}
spec:
  endpointSelector: {matchLabels: {app: wENDPOINT}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET, path: "/pNUMBER"}]}}]
"""


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        yield node


def test_5000_policies_make_no_series_more_and_no_node_has_more_than_600(node: LiveNode) -> None:
    node.start_agent()
    few = counted(node)
    pods = yaml.safe_load(node.workloads.read_text())["workloads"]
    names = [f"w{number}" for number in range(ENDPOINTS)]
    links = "".join(f"link add {name} type veth peer name {name}p\nlink set {name} up\n" for name in names)
    made = node.node.run(["ip", "-batch", "-"], input=links)
    assert made.returncode == 0, made.stderr
    pods += [
        {"name": name, "labels": {"app": name}, "interface": name, "ips": [f"10.211.0.{number + 1}"]}
        for number, name in enumerate(names)
    ]
    node.replace(node.workloads, yaml.safe_dump({"workloads": pods}))
    many = [
        POLICY.replace("NUMBER", str(number)).replace("ENDPOINT", str(number % ENDPOINTS)) for number in range(POLICIES)
    ]
    node.write("many", "---\n".join(many))
    node.until("all are in force", lambda: node.ok() and node.status()["policies"]["enforced"] == POLICIES + 2)
    assert fetch(node.frontend, node.api.ipv4, 80, "/api/v1/users") == OK
    assert fetch(node.frontend, node.api.ipv4, 80, "/api/v1/admin") == DENIED
    now = counted(node)
    assert now == few
    assert sum(now) <= 600


def counted(node: LiveNode) -> tuple[int, int]:
    """Those of /metrics, and those of /metrics/envoy."""
    own, envoy = (samples(metrics(node, path)) for path in ("/metrics", "/metrics/envoy"))
    return len(own), len(envoy)
