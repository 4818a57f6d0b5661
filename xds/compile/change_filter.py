"""What header matches do instead of failing, for those whose policy is in one shard.

A tree of the same shape as the RBAC filter's (see rbac.py), whose leaves are filters that Envoy runs (see change_tree).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...policies.endpoint_policy import Direction, DirectionPolicy, HttpRules, ResolvedRule, RuleOrigin
from .change_tree import Acting, TooManyChanges, acting_rules, change_tree
from .flow_tree import coverings, flow_tree
from .fragment_cache import FragmentCache
from .header_change import NOTHING
from .matcher import Matcher, OnMatch, exact_map
from .subject import OWN, PEER, Judged, subject_trees

TOO_MANY = (
    "more header changes can come together on one port than Envoy takes, so all requests there are denied; "
    "write fewer rules with a mismatch action that the same request can match"
)


class ChangeCompiler:
    """A pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._trees = FragmentCache[tuple[Direction, int], OnMatch]()
        self._joint = FragmentCache[tuple[int, ...], OnMatch | None]()
        self._acting = FragmentCache[int, tuple[Acting, ...]]()
        self._halves = FragmentCache[int, tuple[ResolvedRule, ...]]()

    def impossible(self, half: DirectionPolicy) -> Mapping[RuleOrigin, str]:
        """The rules whose changes are more than a filter can hold, and a sentence for each: they must allow nothing."""
        return {
            rule.origin: TOO_MANY
            for covering in coverings(self._acting_in(half))
            if self._change(covering) is None
            for rule in covering
        }

    def matcher(self, direction: Direction, endpoints: Sequence[Judged]) -> Matcher | None:
        """What is done to the headers of requests to or from these; None for nothing."""

        def tree(_: int, half: DirectionPolicy) -> OnMatch:
            return self._trees.get((direction, id(half)), half, lambda: self._tree(direction, half))

        trees = subject_trees(direction, self._of_acting(endpoints), tree)
        return exact_map(OWN[direction], trees) if trees else None

    def _of_acting(self, endpoints: Sequence[Judged]) -> list[Judged]:
        """Those whose identity has rules that change headers: some endpoint of it has."""
        acting = {endpoint.identity for endpoint, half in endpoints if self._acting_in(half)}
        return [pair for pair in endpoints if pair[0].identity in acting]

    def forget_all_but(self, halves: Iterable[DirectionPolicy]) -> None:
        """Let go of what is not about these halves."""
        live = {id(half): half for half in halves}
        rules = {id(rule) for half in live.values() for rule in half.rules}
        self._trees.keep(lambda key: key[1] in live)
        self._joint.keep(rules.issuperset)
        self._acting.keep(rules.__contains__)
        self._halves.keep(live.__contains__)

    def _tree(self, direction: Direction, half: DirectionPolicy) -> OnMatch:
        """What request rules do to headers. Deny rules are not asked: a request they deny is gone before."""

        def say(covering: Sequence[ResolvedRule]) -> OnMatch:
            return self._change(covering) or NOTHING

        return flow_tree(PEER[direction], self._acting_in(half), say, NOTHING)

    def _change(self, covering: Sequence[ResolvedRule]) -> OnMatch | None:
        """What the rules do together; None when that is more than a filter can hold."""

        def make() -> OnMatch | None:
            try:
                return change_tree([each for rule in covering for each in self._of(rule)])
            except TooManyChanges:
                return None

        return self._joint.get(tuple(id(rule) for rule in covering), tuple(covering), make)

    def _acting_in(self, half: DirectionPolicy) -> tuple[ResolvedRule, ...]:
        return self._halves.get(id(half), half, lambda: tuple(rule for rule in half.rules if self._of(rule)))

    def _of(self, rule: ResolvedRule) -> tuple[Acting, ...]:
        return self._acting.get(id(rule), rule, lambda: _acting(rule))


def _acting(rule: ResolvedRule) -> tuple[Acting, ...]:
    if not isinstance(rule.l7, HttpRules) or rule.tls is not None:
        return ()
    return tuple(acting_rules(str(rule.origin), rule.l7))
