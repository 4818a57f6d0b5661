"""What else than HTTP is spoken at published ports."""

from __future__ import annotations

from contextlib import closing
from typing import cast

from lockgate.agent.playground import Namespace, Outside
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import CLOSED, GLANCE, OK
from lockgate.tests.e2e.published.ground import NODE
from lockgate.tests.e2e.tls_pods import Authority, TlsClient, TlsWeb

NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: tls}}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.example.com]}]
"""


def test_a_rule_by_server_name(ground: Ground, outside: Outside) -> None:
    node, authority = ground.node, Authority("test")
    container = ground.engine.container("tls", "--label", "app=tls", "-p", "18443:443")
    certificate = authority.issue("a.example.com", "b.example.com")
    ground.known("default/tls")
    node.write("tls", NAMES)
    with closing(TlsWeb(cast(Namespace, container), 443, certificate, node.folder)) as web:
        client = TlsClient(authority)
        node.becomes(OK, lambda: client.fetch(outside, NODE, 18443, "a.example.com", patience=GLANCE))
        assert client.fetch(outside, NODE, 18443, "b.example.com") == CLOSED
        assert "b.example.com" not in web.names
        assert web.clients() == {str(outside.ips[0])}
    (node.policies / "tls.yaml").unlink()
