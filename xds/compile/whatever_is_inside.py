"""What rules that cover a peer and a port say of a connection, as far as that does not depend on what is inside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from ...policies.endpoint_policy import Protocol, ResolvedRule, RuleOrigin
from ...policies.proxy_kind import clash

_Say = TypeVar("_Say")


def whatever_is_inside(
    covering: Sequence[ResolvedRule],
    allow: Callable[[str], _Say],
    deny: Callable[[str], _Say],
    unmatched: _Say,
    uncovered: _Say,
    refused: Collection[RuleOrigin] = (),
) -> _Say | None:
    """The verdict, or None when it is for the greeting or the requests to decide.

    `allow` and `deny` say it in the name of a rule. `unmatched` is what comes of what no rule about it allows,
    `uncovered` the say of no rule at all. Rules of `refused` cannot be carried out: what they cover is denied.
    """
    for rule in covering:
        if rule.deny or (refused and rule.origin in refused):
            return deny(str(rule.origin))
    if not covering:
        return uncovered
    if clash(covering, Protocol.TCP):
        return unmatched
    for rule in covering:
        if not rule.redirects:
            return allow(str(rule.origin))
    return uncovered if uncovered != unmatched else None  # enableDefaultDeny false: it lets everything else through
