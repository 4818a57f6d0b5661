"""What the rules that cover a peer and a port say about a connection whose TLS matters, as matcher trees.

Of a connection that Envoy carries as it is, by its greeting (network filters); and of the requests in one that it has
taken up (HTTP filters). Both must agree with policies/interception.py and policies/verdict.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import TypeAlias

from ..policies.endpoint_policy import HttpRules, Protocol, ResolvedRule, TlsRules
from ..policies.interception import contexts_of, encrypts
from ..policies.proxy_kind import clash
from .change_tree import Acting, acting_rules
from .http_tree import conditions, http_tree
from .matcher import OnMatch, Predicate, all_of, any_of, descend, equals, filter_state, first_of
from .rbac_action import allow, deny
from .rule_name import none_of_these_matched
from .server_name import is_named, server_name_tree

Predicates: TypeAlias = tuple[Predicate, ...]  # all of them; of none that is always

# What a chain notes of the connections that it takes up (envoy/tls_listener.py).
_TRANSPORT = filter_state("lockgate.transport")
_WAS_TLS, _WAS_PLAIN = equals(_TRANSPORT, "tls"), equals(_TRANSPORT, "plain")


def carried(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch, *, by_name: bool) -> OnMatch:
    """The verdict on a connection that stays as it is. Without `by_name` it is not what its greeting said any more."""
    if (settled := _whatever_is_inside(covering, unmatched, uncovered)) is not None:
        return settled
    if not by_name:
        return unmatched
    opened = [rule.tls for rule in covering if rule.tls is not None and rule.tls.terminating is not None]
    if not all(tls.server_names for tls in opened):
        return unmatched
    named = [
        (rule.tls.server_names, allow(str(rule.origin)))
        for rule in covering
        if rule.tls is not None and rule.tls.server_names and contexts_of(rule) == (None, None) and rule.l7 is None
    ]
    tree = server_name_tree(named) or unmatched
    if not opened:
        return tree
    return descend(first_of([(is_named(name for tls in opened for name in tls.server_names), unmatched)], tree))


def requested(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
    """The verdict on a request in a connection that was taken up."""
    if (settled := _whatever_is_inside(covering, unmatched, uncovered)) is not None:
        return settled
    about = [rule for rule in covering if rule.tls is not None]
    unmatched = deny(none_of_these_matched([rule.origin for rule in covering]))
    entries = [(predicate, unmatched) for predicate in faults(about, _spoken_about)]
    for rule in about:
        assert rule.tls is not None
        name = str(rule.origin)
        if rule.l7 is None:
            entries.append((all_of(_spoken_about(rule.tls)), allow(name)))
        elif isinstance(rule.l7, HttpRules) and (tree := http_tree(conditions(name, rule.l7))) is not None:
            entries.append((all_of(_spoken_about(rule.tls)), tree))
    return descend(first_of(entries, unmatched)) if entries else unmatched


def changing(covering: Sequence[ResolvedRule]) -> list[Acting]:
    """What the rules do to the headers of such a request."""
    return [
        acting
        for rule in covering
        if rule.tls is not None and isinstance(rule.l7, HttpRules)
        for acting in acting_rules(str(rule.origin), rule.l7, _spoken_about(rule.tls))
    ]


def _spoken_about(tls: TlsRules) -> Predicates:
    """The rule speaks about the connection that a request came in."""
    if tls.server_names:
        return (is_named(tls.server_names),)
    return (_WAS_TLS if encrypts(tls) else _WAS_PLAIN,)


def faults(about: Sequence[ResolvedRule], spoken_about: Callable[[TlsRules], Predicates]) -> Iterator[Predicate]:
    """When a connection should be taken up and cannot be: a secret is no good, or two rules name different ones.
    Nothing is said of what holds for all connections."""
    groups: dict[object, list[TlsRules]] = {}
    for rule in about:
        assert rule.tls is not None
        contexts = contexts_of(rule)
        if any(context is not None and context.lacks for context in contexts):
            if lacking := spoken_about(rule.tls):
                yield all_of(lacking)
        elif any(contexts):
            groups.setdefault(contexts, []).append(rule.tls)
    for one, other in combinations(groups.values(), 2):
        pairs = [(*spoken_about(a), *spoken_about(b)) for a in one for b in other if _can_meet(a, b)]
        if meeting := [all_of(pair) for pair in pairs if pair]:
            yield any_of(meeting)


def _can_meet(one: TlsRules, other: TlsRules) -> bool:
    """False when no connection can be what both rules speak about."""
    if encrypts(one) is not encrypts(other):
        return False
    names = set(one.server_names), set(other.server_names)
    if not all(names) or any("*" in name for each in names for name in each):
        return True
    return bool(names[0] & names[1])


def _whatever_is_inside(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch | None:
    """The verdict where that does not depend on the greeting or on a request."""
    for rule in covering:
        if rule.deny:
            return deny(str(rule.origin))
    if not covering:
        return uncovered
    if clash(covering, Protocol.TCP):
        return unmatched
    for rule in covering:
        if not rule.redirects:
            return allow(str(rule.origin))
    return uncovered if uncovered != unmatched else None  # enableDefaultDeny false
