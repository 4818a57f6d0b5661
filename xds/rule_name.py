"""The names that Envoy's RBAC actions carry, so that every verdict in an access log names what decided.

A rule's name is `str(RuleOrigin)`, e.g. `default/api-access-control:spec.ingress[0].toPorts[0]`. What no rule decided
carries the endpoint: `endpoint:default/api-server:ingress:no-rule-matched`. No name holds a blank: Envoy would turn it
into `_` in the response code details.
"""

from __future__ import annotations

from ..policies.endpoint_policy import Direction

NOT_POLICED = "node:not-policed"

_NO_RULE = "no-rule-matched"
_DEFAULT_ALLOW = "default-allow"
_DETAILS = "rbac_access_denied_matched_policy["


def no_rule_matched(endpoint: str, direction: Direction) -> str:
    """The name of a denial because no rule allows it; `endpoint` is namespace/name."""
    return f"endpoint:{endpoint}:{direction}:{_NO_RULE}"


def default_allow(endpoint: str, direction: Direction) -> str:
    """The name of an allowance because nothing selects the endpoint for default deny."""
    return f"endpoint:{endpoint}:{direction}:{_DEFAULT_ALLOW}"


def names_a_rule(name: str) -> bool:
    """True when the name is a rule's, False when no rule decided."""
    return name != NOT_POLICED and not name.endswith((f":{_NO_RULE}", f":{_DEFAULT_ALLOW}"))


def denied_by(response_code_details: str) -> str | None:
    """The name inside `%RESPONSE_CODE_DETAILS%` of a request that RBAC denied; None for any other request."""
    if not response_code_details.startswith(_DETAILS) or not response_code_details.endswith("]"):
        return None
    return response_code_details[len(_DETAILS) : -1]
