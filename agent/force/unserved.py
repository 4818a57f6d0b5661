"""Rules that nobody can carry out at an endpoint, so that they allow nothing there. Pure."""

from __future__ import annotations

from ...policies.endpoint_policy import Direction, RuleOrigin
from ...xds import Enforced


def unserved(enforced: Enforced) -> tuple[tuple[RuleOrigin, str], ...]:
    """The request rules of policies that select processes of the node, and a sentence for each."""
    found: dict[RuleOrigin, str] = {}
    for endpoint, policy in enforced:
        if endpoint.of_node:
            for rule in (rule for direction in Direction for rule in policy.direction(direction).rules):
                if rule.redirects:
                    found.setdefault(
                        rule.origin,
                        f"no proxy takes up what processes of the node send and are sent, so {endpoint.key} is denied "
                        "what it covers; write a rule by port for it",
                    )
    return tuple(found.items())
