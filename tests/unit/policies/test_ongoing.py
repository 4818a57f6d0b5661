"""Streams that outlived their rule: judged like a new request, as far as it is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.explain import explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import Reserved, endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.ongoing import Ongoing
from lockgate.policies.request import HttpRequest, TlsRequest
from lockgate.policies.tls_secret import TlsSecrets
from lockgate.policies.verdict import Verdict
from lockgate.policies.workload import IPAddress
from lockgate.policies.world import World

WORKLOADS = b"""
workloads:
- {name: web, labels: {app: web}, ips: [10.0.0.1]}
- {name: api, labels: {app: api}, ips: [10.0.0.2]}
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: policy}}
spec:
  endpointSelector: {{matchLabels: {{app: {subject}}}}}
  {direction}:
  - {peers}: [{{matchLabels: {{app: {peer}}}}}]
    toPorts: [{{ports: [{{port: "80", protocol: TCP}}], rules: {{http: [{rule}]}}}}]
"""
INGRESS = {"subject": "api", "direction": "ingress", "peers": "fromEndpoints", "peer": "web"}
EGRESS = {"subject": "web", "direction": "egress", "peers": "toEndpoints", "peer": "api"}
WEB, API, OUTSIDE, NODE = map(ip_address, ("10.0.0.1", "10.0.0.2", "192.0.2.1", "10.0.0.254"))


def world(*policies: str, hosts: Iterable[IPAddress] = ()) -> World:
    parsed = [parse_policies(policy.encode(), "p.yaml") for policy in policies]
    assert all(file.ok for file in parsed)
    endpoints = [endpoint_of(each) for each in parse_workloads(WORKLOADS, "w.yaml").workloads]
    local = [replace(endpoint, ifindex=number) for number, endpoint in enumerate(endpoints, start=2)]
    secrets = TlsSecrets([secret for file in parsed for secret in file.secrets])
    return World.of([policy for file in parsed for policy in file.policies], local, tls=secrets, hosts=hosts)


@pytest.mark.parametrize("where", [INGRESS, EGRESS], ids=["ingress", "egress"])
@pytest.mark.parametrize(
    ("rule", "method", "path", "refused"),
    [
        ('{path: "/stream"}', "GET", "/stream", False),
        ('{path: "/other"}', "GET", "/stream", True),
        ("{method: POST}", "GET", "/stream", True),
        ('{path: "/stream", headers: ["X-Key: 1"]}', "GET", "/stream", False),
        ('{path: "/other", headers: ["X-Key: 1"]}', "GET", "/stream", True),
        ('{headerMatches: [{name: ":method", value: PUT}]}', "GET", "/stream", True),
    ],
)
def test_a_rule_by_request(where: dict[str, str], rule: str, method: str, path: str, refused: bool) -> None:
    reason = Ongoing(world(POLICY.format(rule=rule, **where))).refusal(WEB, API, 80, HttpRequest(method, path))
    assert bool(reason) is refused, reason


def test_a_missing_secret_is_refused() -> None:
    """A header match that nothing can fulfil."""
    match = "{headerMatches: [{name: x-key, secret: {name: gone, namespace: default}}]}"
    assert Ongoing(world(POLICY.format(rule=match, **INGRESS))).refusal(WEB, API, 80, HttpRequest("GET", "/"))


def test_whom_no_policy_of_this_node_judges() -> None:
    where = Ongoing(world(POLICY.format(rule="{path: /}", **INGRESS)))
    assert where.refusal(OUTSIDE, API, 80, HttpRequest("GET", "/"))
    assert not where.refusal(API, OUTSIDE, 80, HttpRequest("GET", "/"))


@pytest.mark.parametrize("where", [INGRESS, EGRESS], ids=["ingress", "egress"])
@pytest.mark.parametrize(("path", "refused"), [("/stream", False), ("/other", True)])
def test_who_was_given_the_nodes_address(where: dict[str, str], path: str, refused: bool) -> None:
    """It is judged as who made the connection; the node itself, and whoever has another address, by that."""
    made = world(POLICY.format(rule="{path: /stream}", **where), hosts=[NODE])
    web, api = (made.endpoint(f"default/{name}") for name in ("web", "api"))
    assert web is not None and api is not None
    judging, request = Ongoing(made), HttpRequest("GET", path)
    assert bool(judging.refusal(NODE, API, 80, request, made_by=web.identity)) is refused
    assert bool(judging.refusal(WEB, API, 80, request, made_by=api.identity)) is refused
    assert not judging.refusal(NODE, API, 80, request)
    assert not judging.refusal(NODE, API, 80, request, made_by=Reserved.HOST)


def test_who_was_given_the_nodes_address_and_is_gone() -> None:
    """Nobody is left by whose rules it could be judged."""
    made = world(POLICY.format(rule="{path: /}", **INGRESS), hosts=[NODE])
    assert "no endpoint" in Ongoing(made).refusal(NODE, API, 80, HttpRequest("GET", "/"), made_by=70000)


@pytest.mark.parametrize("who", ["world", "remote-node", "default/web"])
@pytest.mark.parametrize(("path", "refused"), [("/stream", False), ("/other", True)])
def test_who_was_given_the_nodes_address_and_is_elsewhere(who: str, path: str, refused: bool) -> None:
    """Only the server's policy is this node's business."""
    of_all = POLICY.format(rule="{path: /stream}", **INGRESS).replace("{matchLabels: {app: web}}", "{}")
    by_entity = POLICY.format(rule="{path: /stream}", **INGRESS | {"peers": "fromEntities"})
    made = world(of_all if "/" in who else by_entity.replace("{matchLabels: {app: web}}", who), hosts=[NODE])
    web = made.endpoint("default/web")
    assert web is not None
    ends = [replace(each, ifindex=0) if each is web else each for each in made.endpoints]
    far = World.of(made.policies, ends, hosts=[NODE])
    made_by = {"world": Reserved.WORLD_IPV4, "remote-node": Reserved.REMOTE_NODE}.get(who, web.identity)
    assert bool(Ongoing(far).refusal(NODE, API, 80, HttpRequest("GET", path), made_by=made_by)) is refused


_HTTP = "rules: {{http: [{rule}]}}"
NAMED = POLICY.replace(_HTTP, "serverNames: [{rule}]")
TAKEN = POLICY.replace(_HTTP, "terminatingTLS: {{secret: {{name: s}}}}")
PLAIN = POLICY.replace(f", {_HTTP}", "").replace("name: policy", "name: plain")


@pytest.mark.parametrize("where", [INGRESS, EGRESS], ids=["ingress", "egress"])
@pytest.mark.parametrize(
    ("policies", "refused"),
    [
        ([NAMED.replace("{rule}", "shop.example")], False),
        ([NAMED.replace("{rule}", '"*.example"')], False),
        ([NAMED.replace("{rule}", "other.example")], True),
        ([TAKEN, PLAIN], True),
        ([PLAIN], False),
    ],
)
def test_tls_that_is_carried(where: dict[str, str], policies: list[str], refused: bool, tls_secret: str) -> None:
    """By its greeting, and only as long as Envoy is not to take it up."""
    texts = [policy.format(rule="", **where) for policy in policies]
    reason = Ongoing(world(*texts, tls_secret)).refusal(WEB, API, 80, TlsRequest("shop.example"))
    assert bool(reason) is refused, reason


@pytest.mark.parametrize("where", [INGRESS, EGRESS], ids=["ingress", "egress"])
@pytest.mark.parametrize(
    ("policies", "refused"),
    [
        ([TAKEN], ""),
        ([TAKEN, PLAIN], ""),
        ([NAMED.replace("{rule}", "shop.example")], "Envoy does not take up such connections any more"),
        ([TAKEN.replace("name: s}", "name: other}")], "secret default/other is missing"),
        ([TAKEN.replace("TLS:", f"TLS: {{{{secret: {{{{name: s}}}}}}}}, {_HTTP}, originatingTLS:")], "in another way"),
        ([TAKEN.replace("app: {peer}", "app: nobody")], "no rule allows it"),
    ],
)
def test_what_is_taken_up_as_bytes(where: dict[str, str], policies: list[str], refused: str, tls_secret: str) -> None:
    """Only as long as Envoy would take it up in the same way."""
    texts = [policy.format(rule="", **where) for policy in policies]
    chain = f"{where['direction']}:tcp:default/s[tls.crt,tls.key,]:plain"
    reason = Ongoing(world(*texts, tls_secret)).refusal(WEB, API, 80, TlsRequest("shop.example"), chain)
    assert refused in reason if refused else not reason, reason


WORDS = st.sampled_from(["/a", "/b", "/a/.*", "/.*"])
PATHS = st.sampled_from(["/a", "/b", "/a/b", "/c"])


@given(st.lists(WORDS, min_size=1, max_size=3), PATHS, st.sampled_from([INGRESS, EGRESS]))
def test_without_headers_it_is_the_verdict_of_a_new_request(paths: list[str], path: str, where: dict[str, str]) -> None:
    rules = ", ".join(f'{{path: "{each}"}}' for each in paths)
    made = world(POLICY.format(rule=rules, **where))
    refusal = Ongoing(made).refusal(WEB, API, 80, HttpRequest("GET", path))
    explained = explain(made, Flow("web", "api", 80, request=HttpRequest("GET", path)))
    assert bool(refusal) is (explained.verdict is Verdict.DENY)
