"""The filters that do what header matches ask for, one behind the RBAC filter of each direction.

Each is a tree of the same shape as the RBAC filter's (see rbac.py), whose leaves are filters that Envoy runs (see
change_tree). It comes in a resource of its own, so that Envoy takes up a new verdict and new changes at two moments.
A request must never be judged by the one policy and miss what the other would have done to it: between two policies
stands a bridge, a filter that does the changes of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..policies.endpoint_policy import Direction, DirectionPolicy, HttpRules, ResolvedRule, RuleOrigin
from ..policies.workload import Endpoint
from .change_tree import Acting, TooManyChanges, acting_rules, change_tree
from .flow_tree import coverings, flow_tree
from .fragment_cache import FragmentCache
from .header_change import NOTHING, refusal
from .matcher import OnMatch, exact_map, extension
from .snapshot import FILTER_CONFIG, Resource
from .subject import PEER, SUBJECT, Enforced, Halves, Policed, subject_trees
from .wire import frame

CHANGES: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress.headers", Direction.INGRESS: "lockgate.http.ingress.headers"}
)
TOO_MANY = (
    "more header changes can come together on one port than Envoy takes, so all requests there are denied; "
    "write fewer rules with a mismatch action that the same request can match"
)
_BETWEEN = "lockgate:header-changes-of-two-policies"  # names a denial in the access log


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compilation was made of; see NodeCompiler.compile."""

    endpoints: Enforced
    policed: Policed

    def halves(self, direction: Direction) -> list[tuple[Endpoint, Halves]]:
        """Who has a tree in a direction."""
        return [
            (endpoint, (policy.direction(direction),))
            for endpoint, policy in self.endpoints
            if (endpoint.identity, direction) in self.policed
        ]


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

    def filter(self, direction: Direction, compiled: Compiled) -> Resource:
        """The filter of one direction."""

        def tree(_: int, halves: Halves) -> OnMatch:
            (half,) = halves
            return self._trees.get((direction, id(half)), half, lambda: self._tree(direction, half))

        return _resource(direction, subject_trees(direction, self._of_acting(compiled.halves(direction)), tree))

    def bridge(self, direction: Direction, before: Compiled, after: Compiled) -> Resource:
        """The filter that does the changes of both, those of `before` first. Where they are more than a filter can
        hold it denies."""

        def say(covering: Sequence[ResolvedRule]) -> OnMatch:
            try:
                return change_tree(list(dict.fromkeys(each for rule in covering for each in self._of(rule))))
            except TooManyChanges:
                return refusal(_BETWEEN)

        def tree(_: int, halves: Halves) -> OnMatch:
            acting = [rule for half in halves for rule in self._acting_in(half)]
            return flow_tree(PEER[direction], acting, say, NOTHING)

        both = _joined(before.halves(direction), after.halves(direction))
        return _resource(direction, subject_trees(direction, self._of_acting(both), tree))

    def _of_acting(self, endpoints: Iterable[tuple[Endpoint, Halves]]) -> list[tuple[Endpoint, Halves]]:
        """Those whose identity has rules that change headers: some endpoint of it has."""
        listed = list(endpoints)
        acting = {one.identity for one, halves in listed if any(self._acting_in(half) for half in halves)}
        return [pair for pair in listed if pair[0].identity in acting]

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


def _joined(
    before: Sequence[tuple[Endpoint, Halves]], after: Sequence[tuple[Endpoint, Halves]]
) -> Iterable[tuple[Endpoint, Halves]]:
    """Each endpoint with what it had and what it will have. One that comes has before it what its replicas have, and
    one that goes has behind it what they will have, if they agree."""
    sides = [({one.key: (one, halves) for one, halves in side}, _alike(side)) for side in (before, after)]
    for key in dict.fromkeys(one.key for side in (before, after) for one, _ in side):
        for endpoint in {found[key][0].identity: found[key][0] for found, _ in sides if key in found}.values():
            halves: Halves = ()
            for found, alike in sides:
                own = found.get(key)
                same = own is not None and own[0].identity == endpoint.identity
                halves += own[1] if own is not None and same else alike.get(endpoint.identity, ())
            yield endpoint, tuple({id(half): half for half in halves}.values())


def _alike(side: Sequence[tuple[Endpoint, Halves]]) -> dict[int, Halves]:
    """By identity, the policy of all its endpoints; nothing where they differ."""
    found: dict[int, dict[tuple[int, ...], Halves]] = {}
    for endpoint, halves in side:
        found.setdefault(endpoint.identity, {})[tuple(map(id, halves))] = halves
    return {identity: next(iter(each.values())) for identity, each in found.items() if len(each) == 1}


def _resource(direction: Direction, trees: Mapping[str, OnMatch]) -> Resource:
    composite = frame(2, exact_map(SUBJECT[direction], trees)) if trees else b""
    body = extension(CHANGES[direction], "envoy.extensions.filters.http.composite.v3.Composite", composite)
    return Resource(FILTER_CONFIG, CHANGES[direction], body)
