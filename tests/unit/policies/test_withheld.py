"""Policies without what Envoy judges: nothing opens by it."""

from __future__ import annotations

from dataclasses import replace

from lockgate.policies import HttpRequest, Policy, Verdict, World, judge, parse_policies
from lockgate.policies.endpoint_policy import MismatchAction, Protocol
from lockgate.policies.identity import endpoint_of
from lockgate.policies.model import Entry, HttpCondition, HttpConditions
from lockgate.policies.withheld import closed, condition, needs_envoy, only, parts, place, port_rule, shut, withheld
from lockgate.policies.workload import Workload

TEXT = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /a}, {path: /b}]}
    - ports: [{port: "81", protocol: TCP}]
      rules: {http: [{path: /c, headerMatches: [{name: x-a, value: b}]}]}
    - ports: [{port: "82", protocol: TCP}]
  - fromEntities: [world]
  egress:
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
      serverNames: [example.com]
    - ports: [{port: "53", protocol: UDP}]
      rules: {dns: [{matchName: example.com}]}
"""
OTHER = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: other, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}, {port: "81", protocol: TCP}]
      rules: {http: [{path: /other}]}
"""


def policy(text: str = TEXT) -> Policy:
    """With every headerMatch a REPLACE."""
    parsed = parse_policies(text.encode(), "p.yaml")
    assert not [problem for problem in parsed.problems if problem.is_error]
    (rule,) = parsed.policies[0].rules
    return replace(parsed.policies[0], rules=(replace(rule, ingress=tuple(map(replacing, rule.ingress))),))


def replacing(entry: Entry) -> Entry:
    def changed(rule: HttpCondition) -> HttpCondition:
        return rule._replace(headers=tuple(each._replace(mismatch=MismatchAction.REPLACE) for each in rule.headers))

    return replace(
        entry,
        ports=entry.ports
        and tuple(
            replace(ports, l7=HttpConditions(tuple(map(changed, ports.l7.http))))
            if isinstance(ports.l7, HttpConditions)
            else ports
            for ports in entry.ports
        ),
    )


def allowed(policies: list[Policy], port: int, path: str) -> bool:
    """A request to the server from another pod."""
    server, client = (endpoint_of(Workload(name, "default", (("app", name),))) for name in ("server", "client"))
    world = World.of(policies, [server, client])
    server, client = (each for each in (world.endpoint("default/server"), world.endpoint("default/client")) if each)
    half = world.policy_of(server).ingress
    judged = judge(half, client.identity, Protocol.TCP, port, HttpRequest("GET", path, "", {}))
    return judged.verdict is not Verdict.DENY


def test_parts_are_what_envoy_judges_by() -> None:
    listed = list(parts(policy()))
    assert [place(policy(), part) for part in listed] == [
        "spec.ingress[0].toPorts[0].rules.http[0]",
        "spec.ingress[0].toPorts[0].rules.http[1]",
        "spec.ingress[0].toPorts[1].rules.http[0]",
        "spec.egress[0].toPorts[0].serverNames",
    ]
    assert port_rule(policy(), listed[2]).line == 11
    assert [rule.path for part in listed if (rule := condition(policy(), part))] == ["/a", "/b", "/c"]
    assert needs_envoy(policy())
    assert not needs_envoy(policy(TEXT.partition("  - toPorts:")[0] + "  - {}\n"))


def test_what_is_withheld_is_denied_and_nothing_else_changes() -> None:
    whole, less = policy(), withheld(policy())
    assert [allowed([whole], 80, "/a"), allowed([less], 80, "/a")] == [True, False]
    assert [allowed([whole], 82, "/a"), allowed([less], 82, "/a")] == [True, True]
    assert [allowed([whole], 83, "/a"), allowed([less], 83, "/a")] == [False, False]
    other = policy(OTHER)
    assert allowed([less, other], 80, "/other"), "another policy goes on allowing what it allows"
    assert not allowed([less, other], 81, "/other"), "but not without the headers that this one sees to"
    assert [rule.line for rule in less.rules] == [rule.line for rule in whole.rules]


def test_a_policy_of_some_parts_allows_these_alone() -> None:
    second = list(parts(policy()))[1]
    less = only(policy(), {second})
    assert next(parts(less)).kind == "http"
    assert [allowed([less], 80, path) for path in ("/a", "/b")] == [False, True]
    assert not allowed([less], 82, "/a")


def test_what_allows_nothing_opens_nothing() -> None:
    """A request that another policy allows passes, unless its headers were to be changed."""
    other = parse_policies(OTHER.encode(), "o.yaml").policies[0]
    assert not allowed([shut(policy())], 82, "/")
    assert allowed([shut(policy()), other], 80, "/other")
    assert not allowed([shut(policy()), other], 81, "/other")
    assert not allowed([closed(policy()), other], 80, "/other")
    plain = parse_policies(TEXT.replace(", headerMatches: [{name: x-a, value: b}]", "").encode(), "p.yaml").policies[0]
    assert shut(plain) == closed(plain)
    assert not allowed([closed(plain)], 82, "/")
    assert allowed([closed(plain), other], 81, "/other")
