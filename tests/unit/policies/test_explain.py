"""Explanations: both directions, the deciding rule, and the data form."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import lockgate.policies
import pytest
from lockgate.policies.errors import FlowError
from lockgate.policies.explain import Explanation, explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.verdict import Verdict
from lockgate.policies.world import World

WORKLOADS = b"""
workloads:
- {name: frontend, labels: {app: frontend, role: frontend}, ips: [10.0.0.1]}
- {name: intruder, labels: {app: intruder}, ips: [10.0.0.2]}
- {name: backend, labels: {app: backend}, ips: [10.0.0.3]}
- {name: api-server, labels: {app: api-server}, ips: [10.0.0.4]}
"""
EGRESS = b"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: egress}
spec:
  endpointSelector: {matchLabels: {app: intruder}}
  egress: [{}]
"""


def world(*extra: bytes) -> World:
    examples = Path(lockgate.policies.__file__).parent / "examples"
    names = ("allow-frontend-to-backend.yaml", "api-access-control.yaml")
    files = [((examples / name).read_bytes(), name) for name in names]
    parsed = [parse_policies(data, name) for data, name in [*files, *((data, "extra.yaml") for data in extra)]]
    workloads = parse_workloads(WORKLOADS, "w.yaml").workloads
    return World.of(
        [policy for file in parsed for policy in file.policies], [endpoint_of(workload) for workload in workloads]
    )


def ask(where: World, source: str, destination: str, port: int, **request: Any) -> Explanation:
    return explain(where, Flow.from_json({"from": source, "to": destination, "port": port, **request}))


def test_the_policies_of_the_article() -> None:
    where = world()
    users = {"http": {"method": "GET", "path": "/api/v1/users"}}
    table: list[tuple[str, str, int, dict[str, Any], str]] = [
        ("frontend", "backend", 8080, {}, "allow"),
        ("frontend", "backend", 8081, {}, "deny"),
        ("intruder", "backend", 8080, {}, "deny"),
        ("frontend", "api-server", 80, {}, "redirect"),
        ("frontend", "api-server", 80, users, "allow"),
        ("intruder", "api-server", 80, users, "deny"),
        ("frontend", "api-server", 80, {"http": {"method": "POST", "path": "/api/v1/users"}}, "deny"),
        ("frontend", "api-server", 80, {"http": {"path": "/api/v1/users?all"}}, "deny"),
        ("frontend", "api-server", 80, {"http": {"path": "/api/v1/users/7"}}, "deny"),
        ("reserved:host", "api-server", 80, users, "allow"),
        ("192.0.2.1", "backend", 8080, {}, "deny"),
        ("backend", "192.0.2.1", 443, {}, "allow"),
    ]
    assert [ask(where, *row[:3], **row[3]).verdict.value for row in table] == [row[4] for row in table]


def test_as_data() -> None:
    found = ask(world(), "frontend", "api-server", 80, http={"method": "POST", "path": "/x?y=1"})
    data = json.loads(json.dumps(found.to_json()))
    assert data["verdict"] == "deny"
    assert data["from"]["name"] == "default/frontend"
    assert data["egress"] == {
        "verdict": "allow",
        "reason": "no policy turns the default to deny",
        "policy": None,
        "rule": None,
        "redirected": False,
        "considered": [],
    }
    ingress = data["ingress"]
    assert ingress["redirected"] is True
    assert ingress["considered"][0] == {
        "policy": "default/api-access-control",
        "rule": "spec.ingress[0].toPorts[0]",
        "kind": "CiliumNetworkPolicy",
        "source": "api-access-control.yaml",
        "line": 16,
        "effect": "allow",
        "matched": False,
        "why": "method POST is not GET",
    }
    assert ingress["considered"][1]["policy"] == "local-host"
    assert (
        ingress["considered"][1]["why"]
        == "default/frontend (app=frontend,role=frontend in default) is not one of its peers"
    )


def test_who_decided() -> None:
    where = world(EGRESS)
    allowed = ask(where, "frontend", "backend", 8080)
    assert allowed.deciding is not None
    assert str(allowed.deciding.origin) == "default/allow-frontend-to-backend:spec.ingress[0].toPorts[0]"
    assert allowed.reason.startswith("ingress: allowed by default/allow-frontend-to-backend")
    both = ask(where, "intruder", "backend", 8080)
    assert both.verdict == "deny"
    assert both.reason == "egress: no rule allows it"
    assert both.deciding is None
    redirected = ask(where, "frontend", "api-server", 80)
    assert (
        redirected.reason
        == "ingress: Envoy judges each request by default/api-access-control:spec.ingress[0].toPorts[0]"
    )
    assert ask(where, "192.0.2.1", "192.0.2.2", 80).reason == "no endpoint of this node is involved"


def test_a_side_without_endpoint_is_not_judged() -> None:
    found = ask(world(), "reserved:world", "backend", 8080)
    assert found.egress is None
    side = found.to_json()["egress"]
    assert side["verdict"] == "allow"
    assert side["reason"] == "reserved:world is no workload of ours: nothing judges this direction"


def test_a_mutation_is_told() -> None:
    text = EGRESS.replace(
        b"egress: [{}]",
        b"egress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], "
        b"rules: {http: [{headerMatches: [{name: X, value: y, mismatch: ADD}]}]}}]}]",
    )
    workloads = parse_workloads(WORKLOADS, "w.yaml").workloads
    policies = parse_policies(text, "p.yaml", refuse={}).policies
    where = World.of(policies, [endpoint_of(workload) for workload in workloads])
    side = ask(where, "intruder", "backend", 80, http={}).to_json()["egress"]
    assert (side["verdict"], side["headers"]) == ("allow", [{"action": "ADD", "name": "x", "value": "y"}])
    assert "headers" not in ask(where, "intruder", "backend", 80, http={"headers": {"X": "y"}}).to_json()["egress"]


def test_unknown_ends_raise() -> None:
    with pytest.raises(FlowError, match="no workload is called 'frntend'; did you mean 'default/frontend'"):
        ask(world(), "frntend", "backend", 80)


def test_who_is_cut_off_is_denied_whatever_policies_say() -> None:
    closed = [ip_network("172.17.0.0/16")]
    unknown = Flow("172.17.0.9", "intruder", 80)
    assert explain(world(), unknown).verdict is Verdict.ALLOW, "nothing selects the intruder"
    for flow in (unknown, Flow("intruder", "172.17.0.9", 80)):
        found = explain(world(), flow, closed)
        assert (found.verdict, found.deciding) == (Verdict.DENY, None)
        assert found.reason.startswith("172.17.0.9 is in 172.17.0.0/16, a network of a container engine")
        told = found.to_json()
        assert told["egress"]["verdict"] == told["ingress"]["verdict"] == "deny"
        assert told["egress"]["reason"] == found.reason


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        (("frontend", "127.0.0.1"), "127.0.0.1 is a loopback address"),
        (("frontend", "::1"), "::1 is a loopback address"),
        (("127.0.0.8", "backend"), "127.0.0.8 is a loopback address"),
        (("frontend", "::ffff:10.0.0.3"), "::ffff:10.0.0.3 is an IPv4 address in IPv6 clothes"),
    ],
)
def test_addresses_that_no_packet_may_have(ends: tuple[str, str], why: str) -> None:
    """The programs drop them: tests/unit/redirect/test_packet_programs.py"""
    found = ask(world(), *ends, 8080)
    assert found.verdict is Verdict.DENY
    assert found.reason.startswith(why)


@pytest.mark.parametrize("ends", [("reserved:host", "::1"), ("127.0.0.1", "127.0.0.2"), ("10.0.0.9", "reserved:host")])
def test_who_asks_itself_is_judged_by_nobody(ends: tuple[str, str]) -> None:
    """On a live node: tests/e2e/test_agent_host_policies.py"""
    policy = b"""
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec: {nodeSelector: {}, ingress: [{}], egress: [{}]}
"""
    where = World.of(parse_policies(policy, "node.yaml").policies, world().endpoints, hosts=[ip_address("10.0.0.9")])
    assert where.host is not None
    found = ask(where, *ends, 8080)
    assert (found.verdict, found.egress, found.ingress) == (Verdict.ALLOW, None, None)
    assert ask(where, "reserved:host", "backend", 8080).verdict is Verdict.DENY


def test_a_backend_that_is_cut_off() -> None:
    service = parse_workloads(
        b"""
workloads: [{name: client, ips: [10.0.0.1]}]
services: [{name: s, vips: [10.96.0.1], ports: [{port: 80}], backends: [{ip: 172.17.0.9}]}]
""",
        "w.yaml",
    )
    where = World.of([], [endpoint_of(each) for each in service.workloads], services=service.services)
    flow = Flow("client", "10.96.0.1", 80)
    assert explain(where, flow).verdict is Verdict.ALLOW
    found = explain(where, flow, [ip_network("172.17.0.0/16")])
    assert found.verdict is Verdict.DENY
    assert "its one backend is denied" in found.reason and "172.17.0.9 is in" in found.reason
