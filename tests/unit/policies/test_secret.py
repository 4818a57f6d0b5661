"""Secrets as header values: which give one, and what a policy that names another is told."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import HeaderMatch, HttpRules, MismatchAction
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.model import SecretRef
from lockgate.policies.secret import HeaderValues, Secret, header_values, secret_problems
from lockgate.policies.workload import Workload
from lockgate.policies.world import World

TOKEN, OTHER = SecretRef("default", "token"), SecretRef("other", "token")
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - headerMatches:
          - {name: X-Token, secret: {name: token}, mismatch: REPLACE}
          - {name: X-Other, secret: {namespace: other, name: token}, value: fallback}
"""


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({}, "has 0 entries, and a header match needs exactly one"),
        ({"a": b"x", "b": b"y"}, "has 2 entries, and a header match needs exactly one"),
        ({"a": b""}, "is empty"),
        ({"a": b"\xff"}, "is not UTF-8 text"),
        ({"a": b"x\n"}, "has a line break or another control character, which no header's value has"),
        ({"a": b"x\0"}, "has a line break or another control character, which no header's value has"),
        ({"a": b" x"}, "has a blank at one end, which no header's value has"),
        ({"a": b"x" * 16_001}, "is longer than 16000 bytes"),
    ],
)
def test_a_secret_that_gives_no_header_value(data: dict[str, bytes], why: str) -> None:
    assert header_values([Secret(TOKEN, data)]) == HeaderValues({}, {TOKEN: why})


def test_a_secret_with_one_entry_gives_its_value_whatever_the_key() -> None:
    found = header_values([Secret(TOKEN, {"any.key": b"Bearer a b"}), Secret(OTHER, {"x": b"\xc3\xa9"})])
    assert found.values == {TOKEN: "Bearer a b", OTHER: "é"}
    assert "Bearer" not in repr(found)


def resolved(secrets: dict[SecretRef, str]) -> tuple[HeaderMatch, ...]:
    policies = parse_policies(POLICY.encode(), "p.yaml", refuse={}).policies
    world = World.of(policies, [endpoint_of(Workload("w", "default", ()))], secrets=secrets)
    l7 = world.policy_of(world.endpoints[0]).ingress.rules[0].l7
    assert isinstance(l7, HttpRules)
    return l7.http[0].headers


def test_a_header_match_gets_the_value() -> None:
    assert resolved({TOKEN: "t", OTHER: "o"}) == (
        HeaderMatch("x-token", "t", MismatchAction.REPLACE, secret=True),
        HeaderMatch("x-other", "o", secret=True),
    )


def test_without_its_secret_a_match_lacks_it_or_falls_back() -> None:
    assert resolved({}) == (
        HeaderMatch("x-token", None, MismatchAction.REPLACE, lacks="default/token"),
        HeaderMatch("x-other", "fallback"),
    )


def test_the_policy_is_told_which_secret_gives_nothing() -> None:
    policies = parse_policies(POLICY.encode(), "p.yaml", refuse={}).policies
    found = secret_problems(policies, header_values([Secret(OTHER, {})]))
    assert [str(problem) for problem in found[policies[0].key]] == [
        "p.yaml:8: warning: spec.ingress[0].toPorts[0]: secret default/token is missing: "
        "the rule that needs it matches no request; put a Secret of that name, with one entry, into the policies "
        "folder",
        "p.yaml:8: warning: spec.ingress[0].toPorts[0]: secret other/token has 0 entries, and a header match needs "
        "exactly one: the value beside it counts instead; put a Secret of that name, with one entry, into the policies "
        "folder",
    ]
    assert secret_problems(policies, header_values([Secret(each, {"a": b"x"}) for each in (TOKEN, OTHER)])) == {}
