"""Policies as a case writes them down, and the verdicts of flows under them."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import indent
from typing import Any, TypeAlias

from lockgate.policies.explain import Explanation, explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.model import Policy, SecretRef
from lockgate.policies.service import Service
from lockgate.policies.world import World

WORKLOADS = b"""
workloads:
- {name: front, labels: {app: front, tier: web}, ips: [10.1.0.1, "fd01::1"], ports: {http: 8001}}
- {name: back, labels: {app: back, tier: data}, ips: [10.1.0.2, "fd01::2"], ports: {http: 8080}}
- {name: back-2, labels: {app: back, tier: data}, ips: [10.1.0.3], ports: {http: 8081}}
- {name: bare, ips: [10.1.0.4]}
- {name: cart, namespace: shop, labels: {app: cart, tier: web}, ips: [10.1.0.5], ports: {http: 9090}}
- {name: odd, namespace: shop, labels: {app: front, "container:image": x}, ips: [10.1.0.6]}
"""
SERVICES = (
    Service("data", "default", (("kind", "db"),), (("app", "back"),)),
    Service("outside", "default", (), (), (ip_address("192.0.2.9"),)),
    Service("data", "shop", (("kind", "db"),), (("app", "cart"),)),
    Service("nobody", "default"),
)
NAMES = {
    "api.example.com": frozenset({ip_address("198.51.100.7")}),
    "www.example.org": frozenset({ip_address("fd99::1")}),
}
SECRETS = {SecretRef("default", "token"): "s3cret"}


def policy(spec: str, kind: str = "CiliumNetworkPolicy", name: str = "p", namespace: str = "default") -> Policy:
    where = "" if "Clusterwide" in kind else f", namespace: {namespace}"
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{where}}}\nspec:\n{indent(spec, '  ')}"
    parsed = parse_policies(text.encode(), f"{name}.yaml", refuse={})
    assert not [problem for problem in parsed.problems if problem.is_error], parsed.problems
    return parsed.policies[0]


def world(*policies: Policy, workloads: bytes = WORKLOADS) -> World:
    parsed = parse_workloads(workloads, "w.yaml")
    assert parsed.ok
    return World.of(
        policies,
        [endpoint_of(workload) for workload in parsed.workloads],
        hosts=[ip_address("10.1.0.254")],
        services=SERVICES,
        names=NAMES,
        secrets=SECRETS,
    )


def ask(where: World, flow: str, **request: Any) -> Explanation:
    """`front > back:80/TCP`"""
    ends, _, port = flow.rpartition(":")
    source, _, destination = ends.partition(" > ")
    number, _, protocol = port.partition("/")
    data = {"from": source, "to": destination, "port": int(number), "protocol": protocol or "TCP", **request}
    return explain(where, Flow.from_json(data))


def verdicts(where: World, flows: str) -> dict[str, str]:
    return {flow.strip(): ask(where, flow.strip()).verdict.value for flow in flows.strip().splitlines()}


BACK = "endpointSelector: {matchLabels: {app: back}}\n"
FRONT = "endpointSelector: {matchLabels: {app: front}}\n"
ALL = "endpointSelector: {}\n"
PORT_443 = 'toPorts: [{ports: [{port: "443"}]}]'

# (policies, flows allowed, flows denied, flows redirected)
Case: TypeAlias = tuple[list[Policy], str, str, str]


def judged(case: Case) -> list[dict[str, str]]:
    """The verdict of each flow of a case, by the list that it is in."""
    policies, *listed = case
    where = world(*policies)
    return [verdicts(where, flows) for flows in listed]


def expected(case: Case) -> list[dict[str, str]]:
    """Likewise, as the lists say."""
    listed = zip(case[1:], ("allow", "deny", "redirect"), strict=True)
    return [{flow.strip(): verdict for flow in str(flows).strip().splitlines()} for flows, verdict in listed]
