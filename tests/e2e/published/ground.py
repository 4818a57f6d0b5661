"""A container whose ports the engine publishes, and who asks for them from outside."""

from __future__ import annotations

from ipaddress import ip_address

from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.engine import Inside
from lockgate.tests.e2e.live_node import GLANCE, OK, fetch

OTHER = ip_address("192.0.2.77")  # another client outside
NODE, HTTP, PLAIN, STREAM = "192.0.2.1", 18080, 18081, 18082
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: published, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: published}}
  ingress:
  - PEER
    toPorts:
    - ports: [{port: "8081", protocol: TCP}]
    - ports: [{port: "8080", protocol: TCP}]RULES
"""
RULES = '\n      rules: {http: [{path: "/open"}]}'
PEER = 'fromCIDR: [192.0.2.9/32, "2001:db8::9/128"]'
POLICED = POLICY.replace("PEER", PEER).replace("RULES", RULES)
OPEN = POLICY.replace("PEER", PEER).replace("RULES", "")
CLOSED_TO_IT = POLICY.replace("PEER", "fromCIDR: [203.0.113.0/24]").replace("RULES", RULES)
PODS = POLICY.replace("PEER", "fromEndpoints: [{matchLabels: {app: asks}}]").replace("RULES", RULES)
ASKS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: asks, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: asks}}
  egress:
  - toEntities: [world]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: "/open"}]}
"""


def publish(ground: Ground, *options: object) -> Inside:
    container = ground.engine.container("published", "--label", "app=published", *published(), *options)
    ground.serve(container)
    ground.known("default/published")
    ground.node.becomes(OK, lambda: ask(ground, "/open", patience=GLANCE))
    return container


def published() -> tuple[str, ...]:
    return "-p", f"{HTTP}:8080", "-p", f"{PLAIN}:8081", "-p", f"{STREAM}:7000"


def ask(ground: Ground, path: str, port: int = HTTP, patience: float = 3 * GLANCE) -> str:
    return fetch(ground.node.ground.outside(), NODE, port, path, patience=patience)


def say(ground: Ground, policy: str) -> None:
    """The policy, when it is in force."""
    node = ground.node
    before = node.status()["agent"]["revision"]
    if (node.policies / "published.yaml").read_text() != policy:
        node.write("published", policy)
        node.until("it is in force", lambda: node.ok() and node.status()["agent"]["revision"] > before)
