"""What else than plain HTTP is spoken at published ports, by real clients and servers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address
from typing import cast

import pytest
from lockgate.agent.playground import Outside, Pod
from lockgate.tests.e2e import grpc_pods, kafka_pods
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.grpc_pods import GrpcClient, GrpcServer
from lockgate.tests.e2e.live_node import CLOSED, DENIED, GLANCE, OK, Web
from lockgate.tests.e2e.published.ground import NODE
from lockgate.tests.e2e.tls_pods import UNTRUSTED, Authority, TlsClient, TlsWeb

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: protocols, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: protocols}}
  ingress:
  - fromEntities: [world]
    toPorts:
    - ports: [{port: "%d", protocol: TCP}]
      %s
"""
SECRET = """
apiVersion: v1
kind: Secret
metadata: {name: shown, namespace: default}
data: {tls.crt: %s, tls.key: %s}
---
"""
NAMES = "serverNames: [a.example.com]"
INSIDE = 'terminatingTLS: {secret: {name: shown}}\n      rules: {http: [{path: "/open"}]}'
GRPC = "rules: {grpc: [{service: shop.v1.Catalog, method: Get}]}"
KAFKA = "rules: {kafka: [{role: produce, topic: orders}, {apiKey: createtopics}]}"
PUBLISHED = 18443


@contextmanager
def serving(ground: Ground, port: int, more: str, published: int) -> Iterator[Pod]:
    """A container's network, whose port is published and policed."""
    node = ground.node
    container = ground.engine.container("protocols", "--label", "app=protocols", "-p", f"{published}:{port}")
    pod = Pod(str(container.path), name="protocols", ipv4=IPv4Address(container.ip))
    node.write("protocols", more if "spec:" in more else POLICY % (port, more))
    try:
        ground.selected("default/protocols")
        yield pod
    finally:
        pod.stop()
        (node.policies / "protocols.yaml").unlink()


def test_a_rule_by_server_name(ground: Ground, outside: Outside) -> None:
    node, authority = ground.node, Authority("test")
    client = TlsClient(authority)
    with (
        serving(ground, 443, NAMES, PUBLISHED) as pod,
        closing(TlsWeb(pod, 443, authority.issue("a.example.com", "b.example.com"), node.folder)) as web,
    ):
        node.becomes(OK, lambda: client.fetch(outside, NODE, PUBLISHED, "a.example.com", patience=GLANCE))
        assert client.fetch(outside, NODE, PUBLISHED, "b.example.com") == CLOSED
        assert "b.example.com" not in web.names
        assert web.clients() == {str(outside.ips[0])}


def test_requests_inside_tls(ground: Ground, outside: Outside) -> None:
    """Envoy shows the Secret's certificate and judges what is asked; the container speaks plain HTTP."""
    authority = Authority("test")
    client = TlsClient(authority)
    shown = (base64.b64encode(each).decode() for each in authority.issue("a.example.com"))
    policy = SECRET % tuple(shown) + POLICY % (443, INSIDE)
    with serving(ground, 443, policy, PUBLISHED) as pod, closing(Web(pod, 443)) as web:
        ground.node.becomes(
            OK, lambda: client.fetch(outside, NODE, PUBLISHED, "a.example.com", "/open", patience=GLANCE)
        )
        assert client.fetch(outside, NODE, PUBLISHED, "a.example.com", "/shut") == DENIED
        assert client.fetch(outside, NODE, PUBLISHED, "other.example.com", "/open") == UNTRUSTED
        assert {(each.client, each.path) for each in web.seen} == {(str(outside.ips[0]), "/open")}


def test_grpc(ground: Ground, outside: Outside) -> None:
    with serving(ground, 50051, GRPC, PUBLISHED) as pod:
        server = GrpcServer(pod, 50051, ground.node.folder)
        with GrpcClient(cast(Pod, outside), NODE, PUBLISHED) as client:
            ground.node.becomes("OK", lambda: client.call("Catalog/Get", "one").code)
            assert client.call("Catalog/List", "one") == grpc_pods.DENIED
            assert client.call("Catalog/Get", "two").code == "OK", "on the same connection"
        assert set(server.seen) == {"/shop.v1.Catalog/Get"}


@pytest.mark.parametrize("library", ["aiokafka", "confluent-kafka"])
def test_kafka(ground: Ground, outside: Outside, library: str) -> None:
    """The broker has to tell its clients the node's address, as they are to come back by it."""
    node = ground.node

    def use(operation: str, topic: str) -> str:
        return str(kafka_pods.use_at(outside, f"{NODE}:{kafka_pods.PORT}", library, operation, topic))

    with (
        serving(ground, kafka_pods.PORT, KAFKA, kafka_pods.PORT) as pod,
        (node.folder / "broker.log").open("wb") as log,
    ):
        kafka_pods.start_broker(pod, log, NODE)
        node.becomes("ok", lambda: use("create", "orders,secret"))
        assert use("produce", "orders") == "ok"
        assert use("produce", "secret") == "topicauthorizationfailed"
        assert use("delete", "orders") == "topicauthorizationfailed"
