"""The names that Envoy's RBAC actions carry, so that every verdict in an access log names what decided.

A rule's name is `str(RuleOrigin)`, e.g. `default/api-access-control:spec.ingress[0].toPorts[0]`. A request that none of
the rules about its peer and port matches is denied in their name: `no-rule-matched:default/api-access-control:spec...`,
several with commas between. Where no rule speaks about peer and port at all, the endpoint's identity stands:
`identity:71234:ingress:no-rule-matched`. No name holds a blank: Envoy would turn it into `_` in the response code
details.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...policies.endpoint_policy import Direction, RuleOrigin

NOT_POLICED = "node:not-policed"
UNKNOWN_SUBJECT = "node:unknown-identity"  # an end of this node that Envoy has not been told of: denied

_NO_RULE = "no-rule-matched"
_DEFAULT_ALLOW = "default-allow"
_DETAILS = "rbac_access_denied_matched_policy["


def no_rule_matched(identity: int, direction: Direction) -> str:
    """The name of a denial because no rule allows it to endpoints of this identity."""
    return f"identity:{identity}:{direction}:{_NO_RULE}"


def none_of_these_matched(rules: Sequence[RuleOrigin], limit: int = 3) -> str:
    """The name of a denial because none of the rules about a peer and port matches the request; the first few rules'
    names, and how many more there are."""
    names = [str(rule) for rule in rules[:limit]]
    more = [f"and-{len(rules) - limit}-more"] if len(rules) > limit else []
    return f"{_NO_RULE}:{','.join([*names, *more])}"


def default_allow(identity: int, direction: Direction) -> str:
    """The name of an allowance because nothing selects endpoints of this identity for default deny."""
    return f"identity:{identity}:{direction}:{_DEFAULT_ALLOW}"


def names_a_rule(name: str) -> bool:
    """True when the name is a rule's, False when no rule decided."""
    return (
        name not in (NOT_POLICED, UNKNOWN_SUBJECT)
        and not name.startswith(f"{_NO_RULE}:")
        and not name.endswith((f":{_NO_RULE}", f":{_DEFAULT_ALLOW}"))
    )


def denied_by(response_code_details: str) -> str | None:
    """The name inside `%RESPONSE_CODE_DETAILS%` of a request that RBAC denied; None for any other request."""
    if not response_code_details.startswith(_DETAILS) or not response_code_details.endswith("]"):
        return None
    return response_code_details[len(_DETAILS) : -1]
