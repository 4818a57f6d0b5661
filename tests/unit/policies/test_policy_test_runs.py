"""Test files of policies: what comes of their cases."""

from __future__ import annotations

import pytest
from lockgate.policies import (
    Verdict,
    World,
    endpoint_of,
    parse_policies,
)
from lockgate.policies.policy_test import CaseResult, parse_policy_test, run_case

POLICIES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: calls, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: web}}
  egress:
  - toEndpoints: [{matchLabels: {app: db}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: is-called, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /a}]}
    - ports: [{port: "5432", protocol: TCP}]
  ingressDeny:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts:
    - ports: [{port: "22", protocol: TCP}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: everywhere}
spec:
  endpointSelector: {matchLabels: {app: cache}}
  ingress: [{fromEntities: [world]}]
"""
WORKLOADS = """
policies: p
workloads:
- {name: web, namespace: shop, labels: {app: web}}
- {name: db, namespace: shop, labels: {app: db}}
- {name: cache, labels: {app: cache}}
tests:
"""


def run(text: str) -> CaseResult:
    test = parse_policy_test(f"{WORKLOADS}- {{name: n, {text}}}\n".encode(), "x.test.yaml")
    assert test.problems == ()
    policies = parse_policies(POLICIES.encode(), "p.yaml")
    assert policies.problems == ()
    (case,) = test.cases
    return run_case(World.of(policies.policies, map(endpoint_of, test.workloads)), case)


@pytest.mark.parametrize(
    "text",
    [
        "from: web, to: db, port: 5432, expect: allow",
        "from: web, to: db, port: 80, expect: redirect",
        "from: web, to: db, port: 80, http: {path: /a}, expect: allow",
        "from: web, to: db, port: 80, http: {path: /b}, expect: deny",
        "from: db, to: web, port: 80, expect: allow",
        # Who decided, in every way to say it: either side of what both allow.
        "from: web, to: db, port: 5432, expect: allow, rule: is-called",
        "from: web, to: db, port: 5432, expect: allow, rule: shop/is-called",
        "from: web, to: db, port: 5432, expect: allow, rule: calls",
        "from: web, to: db, port: 5432, expect: allow, rule: 'is-called:spec.ingress[0].toPorts[1]'",
        "from: web, to: db, port: 5432, expect: allow, rule: 'shop/is-called:spec.ingress[0]'",
        "from: web, to: db, port: 5432, expect: allow, rule: 'is-called:spec'",
        "from: web, to: db, port: 80, expect: redirect, rule: 'is-called:spec.ingress[0].toPorts[0]'",
        "from: web, to: db, port: 22, expect: deny, rule: 'is-called:spec.ingressDeny[0]'",
        "from: reserved:world, to: cache, port: 1, expect: allow, rule: everywhere",
        "from: reserved:host, to: cache, port: 1, expect: allow, rule: local-host",
        # One direction alone.
        "from: web, to: db, port: 23, expect: deny",
        "from: web, to: db, port: 23, direction: egress, expect: allow, rule: calls",
        "from: web, to: db, port: 23, direction: ingress, expect: deny",
        "from: web, to: db, port: 80, direction: egress, expect: allow",
        "from: 192.0.2.1, to: db, port: 5432, direction: egress, expect: allow",
    ],
)
def test_a_case_that_passes(text: str) -> None:
    result = run(text)
    assert result.passed, result
    assert result.reason


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("from: web, to: db, port: 5432, expect: deny", "expected deny, got allow"),
        ("from: web, to: db, port: 443, expect: allow", "expected allow, got deny"),
        ("from: web, to: db, port: 80, expect: allow", "expected allow, got redirect"),
        ("from: web, to: db, port: 23, direction: egress, expect: deny", "expected deny, got allow"),
        ("from: 192.0.2.1, to: db, port: 23, direction: egress, expect: deny", "expected deny, got allow"),
        ("from: wbe, to: db, port: 80, expect: allow", "no workload is called 'wbe'; "),
        ("from: reserved:wrld, to: db, port: 80, expect: allow", "unknown reserved identity 'wrld'; "),
        (
            "from: web, to: db, port: 5432, expect: allow, rule: everywhere",
            "expected everywhere to decide, shop/calls:spec.egress[0] and "
            "shop/is-called:spec.ingress[0].toPorts[1] did",
        ),
        (
            "from: web, to: db, port: 5432, direction: ingress, expect: allow, rule: calls",
            "expected calls to decide, shop/is-called:spec.ingress[0].toPorts[1] did",
        ),
        (
            "from: web, to: db, port: 5432, expect: allow, rule: 'is-called:spec.ingress[0].toPorts[0]'",
            "expected is-called:spec.ingress[0].toPorts[0] to decide, ",
        ),
        (
            "from: web, to: db, port: 5432, expect: allow, rule: 'is-called:spec.ingress[0].toPorts[1'",
            "expected is-called:spec.ingress[0].toPorts[1 to decide, ",
        ),
        (
            "from: web, to: db, port: 443, expect: deny, rule: is-called",
            "expected is-called to decide, no rule did, but the default",
        ),
        (
            "from: web, to: db, port: 5432, expect: allow, rule: default/is-called",
            "no policy is called default/is-called; did you mean 'shop/is-called'?",
        ),
        ("from: web, to: db, port: 5432, expect: allow, rule: is-caled", "no policy is called is-caled; "),
    ],
)
def test_a_case_that_fails(text: str, fault: str) -> None:
    result = run(text)
    assert not result.passed
    assert result.fault.startswith(fault), result.fault


def test_a_failure_carries_the_reason_of_the_verdict() -> None:
    result = run("from: web, to: db, port: 80, http: {path: /b}, expect: allow")
    assert result.verdict is Verdict.DENY
    assert result.explanation is not None
    assert result.reason == result.explanation.reason
    assert "shop/is-called:spec.ingress[0].toPorts[0]" in result.reason


def test_a_flow_that_cannot_be_judged_has_no_verdict() -> None:
    result = run("from: nobody, to: db, port: 80, expect: deny")
    assert (result.verdict, result.explanation, result.passed) == (None, None, False)
