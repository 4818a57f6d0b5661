from __future__ import annotations

from lockgate.policies.endpoint_policy import Direction, RuleOrigin
from lockgate.xds.rule_name import NOT_POLICED, default_allow, denied_by, names_a_rule, no_rule_matched


def test_rules_and_defaults_are_told_apart() -> None:
    rule = str(RuleOrigin("CiliumNetworkPolicy", "default", "api", "spec.ingress[0].toPorts[0]", "api.yaml", 3))
    clusterwide = str(RuleOrigin("CiliumClusterwideNetworkPolicy", "", "endpoint", "spec.egress[0]", "c.yaml", 3))
    assert names_a_rule(rule) and names_a_rule(clusterwide)
    for name in (
        NOT_POLICED,
        no_rule_matched("default/a", Direction.INGRESS),
        default_allow("default/a", Direction.EGRESS),
    ):
        assert not names_a_rule(name)
        assert " " not in name


def test_the_name_is_read_off_the_response_code_details() -> None:
    name = "default/api:spec.ingress[0].toPorts[0]"
    assert denied_by(f"rbac_access_denied_matched_policy[{name}]") == name
    assert denied_by("via_upstream") is None
    assert denied_by("rbac_access_denied_matched_policy[cut") is None
