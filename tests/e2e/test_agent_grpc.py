"""gRPC on a live node: grpcio's own client and server over HTTP/2, every kind of method, allowed and denied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

import pytest
from lockgate.envoy.config.access_log import LoggedRequest, parse
from lockgate.tests.e2e.grpc_pods import DENIED, Called, GrpcClient, GrpcServer
from lockgate.tests.e2e.live_node import GLANCE, LiveNode, live_node

PORT = 50051
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "50051", protocol: TCP}]
      rules: %s
"""
CALLS = {
    "Catalog/Get": (("one",), None),
    "Catalog/List": (("one two three",), ("one", "two", "three")),
    "Catalog/Upload": (("one", "two", "three"), ("one two three",)),
    "Catalog/Chat": (("one", "two", "three"), ("ONE", "TWO", "THREE")),
}
CATALOG = "{grpc: [{service: shop.v1.Catalog}]}"
GET_ONLY = "{grpc: [{service: shop.v1.Catalog, method: Get}]}"


def by_path(*paths: str) -> str:
    """The rules of the reference: POST and the path."""
    return json.dumps({"http": [{"method": "POST", "path": path} for path in paths]})


def methods(*names: str) -> str:
    """Typed rules."""
    return json.dumps({"grpc": [{"service": "shop.v1.Catalog", "method": name} for name in names]})


@pytest.fixture(name="node", scope="module")
def node_with_a_grpc_server() -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        node.write("shop", POLICY % CATALOG)
        node.start_agent()
        yield node


@pytest.fixture(name="server", scope="module")
def the_grpc_server(node: LiveNode) -> GrpcServer:
    return GrpcServer(node.backend, PORT, node.folder)


@pytest.fixture(name="clients", scope="module")
def clients_of_both_families(node: LiveNode, server: GrpcServer) -> Iterator[tuple[GrpcClient, GrpcClient]]:
    with (
        GrpcClient(node.frontend, node.backend.ipv4, PORT) as v4,
        GrpcClient(node.frontend, node.backend.ipv6, PORT) as v6,
    ):
        yield v4, v6


def enforce(node: LiveNode, rules: str) -> None:
    """Puts the rules into force: the agent says which revision is."""
    before = node.status()["agent"]["revision"]
    path = node.policies / "shop.yaml"
    if path.read_text() != POLICY % rules:
        node.write("shop", POLICY % rules)
        node.until("the policy is in force", lambda: node.ok() and node.status()["agent"]["revision"] > before)


def expected(node: LiveNode, name: str, family: int) -> Called:
    texts, answers = CALLS[name]
    return Called("OK", "", answers or (f"{node.frontend.ips[family]} {texts[0]}",))


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("rules", [CATALOG, by_path("/shop.v1.Catalog/.*")], ids=["typed", "http"])
def test_every_kind_of_method(
    node: LiveNode, server: GrpcServer, clients: tuple[GrpcClient, GrpcClient], rules: str, family: int
) -> None:
    enforce(node, rules)
    for name, (texts, _) in CALLS.items():
        assert clients[family].call(name, *texts) == expected(node, name, family)
        assert server.seen[-1] == f"/shop.v1.{name}"
    before = len(server.seen)
    assert clients[family].call("Admin/Delete", "one") == DENIED
    assert len(server.seen) == before


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "http"])
def test_methods_are_denied_one_by_one_on_a_connection_that_stays(
    node: LiveNode, server: GrpcServer, clients: tuple[GrpcClient, GrpcClient], typed: bool
) -> None:
    entered = "^listener.lockgate_http.downstream_cx_total$"
    clients[0].call("Catalog/Get", "one")
    before = node.stat(entered)
    for allowed in CALLS:
        short = allowed.partition("/")[2]
        enforce(node, methods(short) if typed else by_path(f"/shop.v1.Catalog/{short}"))
        for name, (texts, _) in CALLS.items():
            reached = len(server.seen)
            wanted = expected(node, name, 0) if name == allowed else DENIED
            assert clients[0].call(name, *texts) == wanted, (allowed, name)
            assert len(server.seen) == reached + (name == allowed)
    assert node.stat(entered) == before


def test_a_change_is_obeyed_by_the_next_call_on_an_open_channel(
    node: LiveNode, clients: tuple[GrpcClient, GrpcClient]
) -> None:
    enforce(node, GET_ONLY)
    client = clients[0]
    assert client.call("Catalog/Chat", "a") == DENIED
    node.write("shop", POLICY % CATALOG)
    node.until("the new rule lets it pass", lambda: client.call("Catalog/Chat", "a").code == "OK")
    node.write("shop", POLICY % GET_ONLY)
    node.until("the old rule denies it again", lambda: client.call("Catalog/Chat", "a") == DENIED)
    assert client.call("Catalog/Get", "one").code == "OK"


def test_what_the_server_says_itself_arrives(node: LiveNode, clients: tuple[GrpcClient, GrpcClient]) -> None:
    enforce(node, CATALOG)
    assert clients[0].call("Catalog/Get", "nothing") == Called("NOT_FOUND", "nothing is not there")
    big = "x" * 3_000_000
    assert clients[0].call("Catalog/Get", big).texts == (f"{node.frontend.ipv4} {big}",)


def test_health_and_reflection_are_services_like_any_other(
    node: LiveNode, clients: tuple[GrpcClient, GrpcClient]
) -> None:
    client = clients[1]
    enforce(node, CATALOG)
    assert client.call("health") == DENIED
    assert client.call("reflection") == DENIED
    health = "{service: grpc.health.v1.Health, method: Check}"
    enforce(node, f"{{grpc: [{health}, {{service: grpc.reflection.v1alpha.ServerReflection}}]}}")
    assert client.call("health") == Called("OK", "", ("SERVING",))
    listed = client.call("reflection")
    assert listed.code == "OK" and {"shop.v1.Admin", "shop.v1.Catalog", "grpc.health.v1.Health"} <= {*listed.texts}
    assert client.call("Catalog/Get", "one") == DENIED


def test_metadata_are_headers(node: LiveNode, clients: tuple[GrpcClient, GrpcClient]) -> None:
    enforce(node, json.dumps({"http": [{"path": "/shop.v1.Catalog/Get", "headers": ["x-team: shop"]}]}))
    assert clients[0].call("Catalog/Get", "one", x_team="shop").code == "OK"
    assert clients[0].call("Catalog/Get", "one", x_team="other") == DENIED
    assert clients[0].call("Catalog/Get", "one") == DENIED


def test_both_directions_must_allow(node: LiveNode, clients: tuple[GrpcClient, GrpcClient]) -> None:
    enforce(node, CATALOG)
    egress = POLICY.replace("name: shop", "name: out").replace("app: backend", "app: frontend")
    egress = egress.replace("ingress:", "egress:").replace("fromEndpoints", "toEndpoints")
    path = node.write(
        "out", egress.replace("matchLabels: {app: frontend}}]", "matchLabels: {app: backend}}]") % GET_ONLY
    )
    try:
        node.until("egress denies", lambda: clients[0].call("Catalog/List", "a b") == DENIED)
        assert clients[0].call("Catalog/Get", "one").code == "OK"
    finally:
        path.unlink()
    node.until("egress is open again", lambda: clients[0].call("Catalog/List", "a b").code == "OK")


def test_a_denial_is_logged_with_service_method_policy_and_rule(
    node: LiveNode, clients: tuple[GrpcClient, GrpcClient]
) -> None:
    enforce(node, GET_ONLY)
    assert clients[1].call("Admin/Delete", "one") == DENIED

    def logged(method: str) -> list[LoggedRequest]:
        found = [parse(line) for line in (node.run_dir / "requests.jsonl").read_bytes().splitlines()]
        return [line for line in found if line.grpc_method == method and line.source.ip == node.frontend.ipv6]

    line = node.until("the denial is logged", partial(logged, "shop.v1.Admin/Delete"))[-1]
    assert (line.destination.ip, line.destination.port) == (node.backend.ipv6, PORT)
    assert line.rule == "no-rule-matched:default/shop:spec.ingress[0].toPorts[0]"


def test_who_is_no_peer_of_the_rule_is_dropped(node: LiveNode, server: GrpcServer) -> None:
    before = len(server.seen)
    with GrpcClient(node.intruder, node.backend.ipv4, PORT, patience=GLANCE) as intruder:
        assert intruder.call("Catalog/Get", "one").code == "DEADLINE_EXCEEDED"
    assert len(server.seen) == before
