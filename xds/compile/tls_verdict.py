"""What the rules that cover a peer and a port say about a connection whose TLS matters, as matcher trees.

Of a connection that Envoy carries as it is, by its greeting (network filters); and of the requests in one that it has
taken up (HTTP filters). Both must agree with policies/interception.py and policies/verdict.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import TypeAlias

from ...policies.endpoint_policy import HttpRules, ResolvedRule
from ...policies.interception import contexts_of, encrypts
from .change_tree import Acting, acting_rules
from .http_tree import conditions, http_tree
from .matcher import OnMatch, Predicate, all_of, any_of, descend, equals, filter_state, first_of, is_action, is_present
from .rbac_action import allow, deny
from .rule_name import none_of_these_matched
from .server_name import SERVER_NAME, Held, is_named, server_name_tree
from .whatever_is_inside import whatever_is_inside

Predicates: TypeAlias = tuple[Predicate, ...]  # all of them; of none that is always

# What a chain notes of the connections that it takes up (envoy/config/tls_listener.py).
_TRANSPORT = filter_state("lockgate.transport")
_NAMED = is_present(SERVER_NAME)  # where that is known already: always
_WAS_TLS, _WAS_PLAIN = equals(_TRANSPORT, "tls"), equals(_TRANSPORT, "plain")


def carried(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch, *, by_name: bool) -> OnMatch:
    """The verdict on a connection that stays as it is. Without `by_name` it is not what its greeting said any more."""
    if (settled := whatever_is_inside(covering, allow, deny, unmatched, uncovered)) is not None:
        return settled
    opened = [rule for rule in covering if rule.tls is not None and rule.tls.terminating is not None]
    if not by_name or not all(names_of(rule) for rule in opened):
        return unmatched
    named = [rule for rule in covering if names_of(rule) and contexts_of(rule) == (None, None) and rule.l7 is None]
    said = [(rule, unmatched) for rule in opened] + [(rule, allow(str(rule.origin))) for rule in named]

    def say(held: Held) -> OnMatch:
        return _first([(held[at], says) for at, (_, says) in enumerate(said) if at in held], unmatched)

    return server_name_tree([names_of(rule) for rule, _ in said], say)


def requested(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
    """The verdict on a request in a connection that was taken up."""
    if (settled := whatever_is_inside(covering, allow, deny, unmatched, uncovered)) is not None:
        return settled
    about = [rule for rule in covering if rule.tls is not None]
    unmatched = deny(none_of_these_matched([rule.origin for rule in covering]))

    @cache
    def inside(at: int) -> OnMatch | None:
        rules = about[at].l7
        return http_tree(conditions(str(about[at].origin), rules)) if isinstance(rules, HttpRules) else None

    def say(held: Held) -> OnMatch:
        spoken = {at: _spoken_about(about[at], named) for at, named in held.items()}
        entries = [(predicates, unmatched) for predicates in faults([(about[at], when) for at, when in spoken.items()])]
        for at, predicates in spoken.items():
            if about[at].l7 is None:
                entries.append((predicates, allow(str(about[at].origin))))
            elif (tree := inside(at)) is not None:
                entries.append((predicates, tree))
        return _first(entries, unmatched)

    return server_name_tree([names_of(rule) for rule in about], say)


def changing(covering: Sequence[ResolvedRule]) -> list[Acting]:
    """What the rules do to the headers of such a request."""
    return [
        acting
        for rule in covering
        if rule.tls is not None and isinstance(rule.l7, HttpRules)
        for acting in acting_rules(str(rule.origin), rule.l7, _speaks(rule))
    ]


def names_of(rule: ResolvedRule) -> tuple[str, ...]:
    """The server names that it is for; none is any."""
    return rule.tls.server_names if rule.tls is not None else ()


def _speaks(rule: ResolvedRule) -> Predicates:
    """The rule speaks about the connection that a request came in."""
    return _spoken_about(rule, (is_named(names_of(rule)),) if names_of(rule) else ())


def _spoken_about(rule: ResolvedRule, named: Predicates) -> Predicates:
    """The same where its names hold when `named` does."""
    if names_of(rule):
        return named
    assert rule.tls is not None
    return (_WAS_TLS if encrypts(rule.tls) else _WAS_PLAIN,)


def faults(about: Sequence[tuple[ResolvedRule, Predicates]]) -> Iterator[Predicates]:
    """When a connection should be taken up and cannot be: a secret is no good, or two rules name different ones.
    `about` are rules about TLS, with when each speaks about the connection."""
    groups: dict[object, list[tuple[bool, Predicates]]] = {}
    for rule, predicates in about:
        assert rule.tls is not None
        contexts = contexts_of(rule)
        if any(context is not None and context.lacks for context in contexts):
            yield predicates
        elif any(contexts):
            groups.setdefault(contexts, []).append((encrypts(rule.tls), predicates))
    for one, other in combinations(groups.values(), 2):
        # No connection is both TLS and not.
        pairs = [(*a, *b) for encrypted, a in one for other_encrypted, b in other if encrypted is other_encrypted]
        if () in pairs:
            yield ()
        elif pairs:
            yield (any_of([all_of(pair) for pair in pairs]),)


def _first(entries: Iterable[tuple[Predicates, OnMatch]], otherwise: OnMatch) -> OnMatch:
    """What the first entry says whose predicates all hold; where it says a miss, the next."""
    listed: list[tuple[Predicate, OnMatch]] = []
    for predicates, says in entries:
        if not predicates and is_action(says):
            otherwise = says
            break
        listed.append((all_of(predicates) if predicates else _NAMED, says))
    return descend(first_of(listed, otherwise)) if listed else otherwise
