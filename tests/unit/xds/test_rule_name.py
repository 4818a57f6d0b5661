from __future__ import annotations

from lockgate.policies.endpoint_policy import Direction, RuleOrigin
from lockgate.xds.compile.rule_name import (
    NOT_POLICED,
    UNKNOWN_SUBJECT,
    default_allow,
    denied_by,
    names_a_rule,
    no_rule_matched,
    none_of_these_matched,
)


def test_rules_and_defaults_are_told_apart() -> None:
    rule = str(RuleOrigin("CiliumNetworkPolicy", "default", "api", "spec.ingress[0].toPorts[0]", "api.yaml", 3))
    clusterwide = str(RuleOrigin("CiliumClusterwideNetworkPolicy", "", "endpoint", "spec.egress[0]", "c.yaml", 3))
    assert names_a_rule(rule) and names_a_rule(clusterwide)
    for name in (
        NOT_POLICED,
        UNKNOWN_SUBJECT,
        no_rule_matched(400, Direction.INGRESS),
        default_allow(400, Direction.EGRESS),
        none_of_these_matched([RuleOrigin("CiliumNetworkPolicy", "default", "api", "spec.ingress[0]", "api.yaml", 3)]),
    ):
        assert not names_a_rule(name)
        assert " " not in name


def test_a_denial_in_the_name_of_many_rules_is_short() -> None:
    rules = [RuleOrigin("CiliumNetworkPolicy", "a", f"p{n}", "spec.ingress[0]", "p.yaml", 1) for n in range(5)]
    assert none_of_these_matched(rules[:1]) == "no-rule-matched:a/p0:spec.ingress[0]"
    assert none_of_these_matched(rules) == (
        "no-rule-matched:a/p0:spec.ingress[0],a/p1:spec.ingress[0],a/p2:spec.ingress[0],and-2-more"
    )


def test_the_name_is_read_off_the_response_code_details() -> None:
    name = "default/api:spec.ingress[0].toPorts[0]"
    assert denied_by(f"rbac_access_denied_matched_policy[{name}]") == name
    assert denied_by("via_upstream") is None
    assert denied_by("rbac_access_denied_matched_policy[cut") is None
