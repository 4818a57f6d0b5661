"""Warnings about the whole set."""

from __future__ import annotations

from textwrap import indent

import pytest
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.lint import find_duplicates, lint
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.model import Policy
from lockgate.policies.workload import Workload
from lockgate.policies.world import World

ENDPOINTS = [endpoint_of(Workload(app, "default", (("app", app),))) for app in ("a", "b")]


def policy(spec: str, name: str = "p") -> Policy:
    head = f"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: {name}}}\nspec:\n"
    parsed = parse_policies((head + indent(spec, "  ")).encode(), f"{name}.yaml", refuse={})
    assert parsed.problems == ()
    return parsed.policies[0]


def warnings(*policies: Policy) -> list[str]:
    return [str(problem) for problem in lint(World.of(policies, ENDPOINTS))]


A = "endpointSelector: {matchLabels: {app: a}}\n"
FROM_B = "fromEndpoints: [{matchLabels: {app: b}}]"
GET = 'toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{method: GET}]}}]'


def test_nothing_to_say() -> None:
    assert warnings(policy(A + f"ingress: [{{{FROM_B}, {GET}}}]")) == []


def test_selectors_without_anybody() -> None:
    spec = (
        "endpointSelector: {matchLabels: {app: z}}\n"
        "egress:\n- toEndpoints: [{matchLabels: {app: a}}, {matchLabels: {app: y}}]"
    )
    implicit = "io.cilium.k8s.policy.cluster=default, k8s:io.kubernetes.pod.namespace=default"
    assert warnings(policy(spec)) == [
        "p.yaml:4: warning: spec: the policy selects no workload (app=z, k8s:io.kubernetes.pod.namespace=default)",
        f"p.yaml:7: warning: spec.egress[0]: a selector matches no workload (app=y, k8s:{implicit})",
    ]


def test_a_rule_that_a_deny_hides() -> None:
    hidden = policy(A + f"ingress:\n- {FROM_B}\n- fromEntities: [world]")
    deny = policy(A + "ingressDeny: [{fromEndpoints: [{}]}]", "q")
    assert warnings(hidden, deny) == [
        "p.yaml:7: warning: spec.ingress[0]: never applies: default/q:spec.ingressDeny[0] denies all of it"
    ]
    narrow = policy(A + "ingressDeny: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80'}]}]}]", "q")
    assert warnings(hidden, narrow) == []


@pytest.mark.parametrize("opening", [FROM_B, 'toPorts: [{ports: [{port: "1", endPort: 99}]}]', "fromEntities: [all]"])
def test_request_rules_that_a_plain_rule_opens(opening: str) -> None:
    assert warnings(policy(A + f"ingress:\n- {FROM_B}\n  {GET}\n- {opening}")) == [
        "p.yaml:8: warning: spec.ingress[0].toPorts[0]: its request rules have no effect: "
        f"default/p:spec.ingress[1]{'.toPorts[0]' if 'toPorts' in opening else ''}"
        " allows the same peers and ports with every request"
    ]


@pytest.mark.parametrize("other", ["fromEntities: [world]", f"{FROM_B}\n  toPorts: [{{ports: [{{port: '81'}}]}}]"])
def test_request_rules_that_stay_in_force(other: str) -> None:
    assert warnings(policy(A + f"ingress:\n- {FROM_B}\n  {GET}\n- {other}")) == []


def test_a_rule_counts_as_pointless_only_where_it_is_for_every_endpoint() -> None:
    both = policy(f"endpointSelector: {{}}\ningress:\n- {FROM_B}\n  {GET}")
    opening = policy(A + f"ingress:\n- {FROM_B}", "q")
    assert warnings(both, opening) == []
    assert len(warnings(both, policy(f"endpointSelector: {{}}\ningress:\n- {FROM_B}", "q"))) == 1


def test_duplicates_are_errors() -> None:
    one, two = policy(A + "ingress: [{}]"), policy(A + "egress: [{}]")
    (problem,) = find_duplicates([one, two, policy(A + "egress: [{}]", "q")])
    assert str(problem) == (
        "p.yaml:1: metadata.name: CiliumNetworkPolicy default/p is already in p.yaml:1; rename or remove one of them"
    )
    assert problem.is_error
    assert find_duplicates([one]) == ()
