"""gRPC inside TLS on a live node: grpcio trusts the policy's authority, and its calls are judged one by one."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from lockgate.tests.e2e.grpc_pods import DENIED, Called, GrpcClient, GrpcServer
from lockgate.tests.e2e.live_node import LiveNode, live_node
from lockgate.tests.e2e.tls_pods import Authority

NAME = "shop.example.com"
SECRET = """\
apiVersion: v1
kind: Secret
metadata: {name: %s}
data: {%s}
---
"""
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out-%(port)s}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toPorts:
    - ports: [{port: "%(port)s", protocol: TCP}]
      %(tls)s
      rules: {grpc: [{service: shop.v1.Catalog}]}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: in-%(port)s}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress: [{toPorts: [{ports: [{port: "%(port)s", protocol: TCP}]}]}]
---
"""
SHOWN, TRUSTED = "terminatingTLS: {secret: {name: shown}}", "originatingTLS: {secret: {name: trusted}}"
PASS = "originatingTLS: {secret: {name: trusted-with-pass}}"
BOTH, FROM_PLAIN, TO_PLAIN, WITH_PASS, WITHOUT_PASS = 50052, 50053, 50054, 50055, 50056
# By port: what policies say of TLS, and how the two ends speak.
TLS = {
    BOTH: (SHOWN, TRUSTED),
    FROM_PLAIN: (TRUSTED,),
    TO_PLAIN: (SHOWN,),
    WITH_PASS: (SHOWN, PASS),
    WITHOUT_PASS: (SHOWN, TRUSTED),
}
CALLS = {
    "Catalog/Get": (("one",), None),
    "Catalog/List": (("one two three",), ("one", "two", "three")),
    "Catalog/Upload": (("one", "two", "three"), ("one two three",)),
    "Catalog/Chat": (("one", "two", "three"), ("ONE", "TWO", "THREE")),
}


@dataclass(frozen=True, slots=True)
class Shop:
    """The node, its servers by port, and a client for each made by `dial`."""

    node: LiveNode
    servers: dict[int, GrpcServer]
    dial: Callable[[int], GrpcClient]


def secret(name: str, **entries: bytes) -> str:
    lines = (f"{key.replace('_', '.')}: {base64.b64encode(value).decode()}" for key, value in entries.items())
    return SECRET % (name, ", ".join(lines))


def saved(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.touch(0o600)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    inside, outside, passes = Authority("inside"), Authority("outside"), Authority("passes")
    with live_node(start=False) as node, ExitStack() as stack:
        chain, key = inside.issue(NAME)
        written = secret("shown", tls_crt=chain, tls_key=key) + secret("trusted", ca_crt=outside.pem)
        chain, key = passes.issue("envoy")
        written += secret("trusted-with-pass", ca_crt=outside.pem, tls_crt=chain, tls_key=key)
        written += "".join(POLICY % {"port": port, "tls": "\n      ".join(words)} for port, words in TLS.items())
        node.write("shop", written)
        # A client that speaks plainly calls the server by its address.
        chain, key = outside.issue(NAME, str(node.backend.ipv4))
        own = saved(node.folder, "server.crt", chain), saved(node.folder, "server.key", key)
        asking = saved(node.folder, "passes.crt", passes.pem)
        ends = {BOTH: own, FROM_PLAIN: own, TO_PLAIN: (), WITH_PASS: (*own, asking), WITHOUT_PASS: (*own, asking)}
        servers = {port: GrpcServer(node.backend, port, node.folder, *ends[port]) for port in TLS}
        trusted = saved(node.folder, "inside.crt", inside.pem)
        node.start_agent()

        def dial(port: int) -> GrpcClient:
            tls = None if port == FROM_PLAIN else (trusted, NAME)
            return stack.enter_context(GrpcClient(node.frontend, node.backend.ipv4, port, tls=tls))

        yield Shop(node, servers, dial)


@pytest.mark.parametrize("port", [BOTH, FROM_PLAIN, TO_PLAIN, WITH_PASS], ids=["both", "out", "in", "certificate"])
def test_every_kind_of_method_is_judged_inside_tls(shop: Shop, port: int) -> None:
    client, server = shop.dial(port), shop.servers[port]
    for name, (texts, answers) in CALLS.items():
        wanted = answers or (f"{shop.node.frontend.ipv4} {texts[0]}",)
        assert client.call(name, *texts) == Called("OK", "", wanted)
        reached = len(server.seen)
        assert server.seen[-1] == f"/shop.v1.{name}"
        assert client.call("Admin/Delete", "one") == DENIED
        assert len(server.seen) == reached
    assert client.call("Catalog/Get", "nothing") == Called("NOT_FOUND", "nothing is not there")


def test_all_calls_went_over_one_connection(shop: Shop) -> None:
    entered = "^listener.lockgate_tls.downstream_cx_total$"
    client = shop.dial(BOTH)
    assert client.call("Catalog/Get", "one").code == "OK"
    before = shop.node.stat(entered)
    for _ in range(5):
        assert client.call("Admin/Delete", "one") == DENIED
        assert client.call("Catalog/Get", "one").code == "OK"
    assert shop.node.stat(entered) == before


def test_a_server_that_asks_for_a_certificate_is_not_reached_without(shop: Shop) -> None:
    assert shop.dial(WITHOUT_PASS).call("Catalog/Get", "one").code == "UNAVAILABLE"
    assert shop.servers[WITHOUT_PASS].seen == []


def test_a_change_is_obeyed_by_the_next_call(shop: Shop) -> None:
    node, client = shop.node, shop.dial(BOTH)
    written = (node.policies / "shop.yaml").read_text()
    assert client.call("Catalog/Chat", "a").code == "OK"
    narrowed = written.replace("{service: shop.v1.Catalog}", "{service: shop.v1.Catalog, method: Get}")
    node.write("shop", narrowed)
    node.until("the new rule denies it", lambda: client.call("Catalog/Chat", "a") == DENIED)
    assert client.call("Catalog/Get", "one").code == "OK"
    node.write("shop", written)
    node.until("the old rule lets it pass again", lambda: client.call("Catalog/Chat", "a").code == "OK")
