"""Rules read back from Envoy, as people are shown them."""

from __future__ import annotations

from lockgate.agent.inspection.rbac_view import rows
from lockgate.envoy.inspection.enforced import OTHERWISE, EnforcedRule

NAME = "default/api:spec.ingress[0]"


def rule(port: str, name: str, filter_: str = "lockgate.http.ingress.7") -> EnforcedRule:
    return EnforcedRule(filter_, {"subject": ("300",), "port": (port,)}, True, name)


def test_a_rule_that_stands_under_every_port_is_about_any() -> None:
    """Also where the tree names a port for the sake of another rule."""
    shown = rows([rule("80", NAME), rule("80", "local-host:built-in"), rule(OTHERWISE, "local-host:built-in")], {})
    assert [(row.policy, row.port) for row in shown] == [("default/api", "80"), ("local-host", "any")]


def test_a_rule_that_stands_under_some_of_them_is_not() -> None:
    some = [rule("80", NAME), rule("81", "b:c"), rule("81", NAME), rule(OTHERWISE, "b:c")]
    assert [(row.policy, row.port) for row in rows(some, {})] == [("default/api", "80-81"), ("b", "81, otherwise")]
    other = [rule("443", "b:c", "lockgate.tls.ingress"), rule("80", NAME), rule(OTHERWISE, NAME)]
    assert [row.port for row in rows(other, {})] == ["443", "any"], "each filter has ports of its own"
