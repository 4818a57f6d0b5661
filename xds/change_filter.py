"""The filters that do what header matches ask for, one behind the RBAC filter of each direction.

Each is a tree of the same shape as the RBAC filter's (see rbac.py), whose leaves are filters that Envoy runs (see
change_tree). It comes in a resource of its own, so that Envoy takes up a new verdict and new changes at two moments.
A request must never be judged by the one policy and miss what the other would have done to it: between two policies
stands a bridge, a filter that does the changes of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from ..policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, HttpRules, ResolvedRule, RuleOrigin
from ..policies.identity import IPNetwork
from ..policies.workload import Endpoint
from .address import as_envoy_prints
from .change_tree import Acting, TooManyChanges, acting_rules, change_tree
from .flow_tree import coverings, flow_tree
from .fragment_cache import FragmentCache
from .header_change import NOTHING, refusal
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, Input, OnMatch, exact_map, extension
from .peers import PrefixIndex
from .snapshot import FILTER_CONFIG, Resource
from .two_ipcaches import TwoIpcaches
from .wire import frame

CHANGES: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress.headers", Direction.INGRESS: "lockgate.http.ingress.headers"}
)
_OWN: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP}
)
_PEER: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DESTINATION_IP, Direction.INGRESS: DIRECT_SOURCE_IP}
)
TOO_MANY = (
    "more header changes can come together on one port than Envoy takes, so all requests there are denied; "
    "write fewer rules with a mismatch action that the same request can match"
)
_BETWEEN = "lockgate:header-changes-of-two-policies"  # names a denial in the access log

Policed: TypeAlias = frozenset[tuple[str, Direction]]  # (endpoint key, direction)
Enforced: TypeAlias = Sequence[tuple[Endpoint, EndpointPolicy]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compilation was made of; see NodeCompiler.compile."""

    endpoints: Enforced
    ipcache: Mapping[IPNetwork, int]
    policed: Policed

    def halves(self, direction: Direction) -> list[tuple[Endpoint, DirectionPolicy]]:
        """Who has a tree in a direction, sorted by key."""
        found = [pair for pair in self.endpoints if (pair[0].key, direction) in self.policed]
        return [(one, policy.direction(direction)) for one, policy in sorted(found, key=lambda pair: pair[0].key)]


class ChangeCompiler:
    """A pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._trees = FragmentCache[tuple[str, Direction, int, int, int], OnMatch]()
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

    def filter(
        self, direction: Direction, compiled: Compiled, indexes: Mapping[int, PrefixIndex], indexes_at: int
    ) -> Resource:
        """The filter of one direction. `indexes` are of the ipcache, by family; `indexes_at` tells them from others."""
        trees: dict[str, OnMatch] = {}
        for endpoint, half in compiled.halves(direction):
            if acting := self._acting_in(half):
                for address in endpoint.ips:
                    key = (endpoint.key, direction, address.version, id(half), indexes_at)
                    make = partial(self._tree, direction, acting, indexes[address.version])
                    trees.setdefault(as_envoy_prints(address), self._trees.get(key, half, make))
        return _resource(direction, trees)

    def bridge(self, direction: Direction, before: Compiled, after: Compiled) -> Resource:
        """The filter that does the changes of both, those of `before` first. Where they are more than a filter can
        hold it denies."""
        ipcaches = TwoIpcaches(before.ipcache, after.ipcache)
        rules: dict[tuple[str, int], list[ResolvedRule]] = {}
        acting: dict[int, tuple[Acting, ...]] = {}
        for compiled, meant in ((before, ipcaches.before), (after, ipcaches.after)):
            taken: set[str] = set()
            for endpoint, half in compiled.halves(direction):
                for address in endpoint.ips:
                    text = as_envoy_prints(address)
                    if text not in taken:
                        taken.add(text)
                        for rule in self._acting_in(half):
                            both = replace(rule, peers=None if rule.peers is None else meant(rule.peers))
                            acting[id(both)] = self._of(rule)
                            rules.setdefault((text, address.version), []).append(both)

        def say(covering: Sequence[ResolvedRule]) -> OnMatch:
            try:
                return change_tree(list(dict.fromkeys(each for rule in covering for each in acting[id(rule)])))
            except TooManyChanges:
                return refusal(_BETWEEN)

        indexes = {version: PrefixIndex(ipcaches.numbers, version) for version in (4, 6)} if rules else {}
        return _resource(
            direction,
            {
                text: flow_tree(_PEER[direction], indexes[version], listed, say, NOTHING, NOTHING)
                for (text, version), listed in rules.items()
            },
        )

    def forget_all_but(self, halves: Iterable[DirectionPolicy], indexes_at: int) -> None:
        """Let go of what is not about these halves."""
        live = {id(half): half for half in halves}
        rules = {id(rule) for half in live.values() for rule in half.rules}
        self._trees.keep(lambda key: key[3] in live and key[4] == indexes_at)
        self._joint.keep(rules.issuperset)
        self._acting.keep(rules.__contains__)
        self._halves.keep(live.__contains__)

    def _tree(self, direction: Direction, acting: Sequence[ResolvedRule], index: PrefixIndex) -> OnMatch:
        """What request rules do to headers. Deny rules are not asked: a request they deny is gone before."""

        def say(covering: Sequence[ResolvedRule]) -> OnMatch:
            return self._change(covering) or NOTHING

        return flow_tree(_PEER[direction], index, acting, say, NOTHING, NOTHING)

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


def _resource(direction: Direction, trees: Mapping[str, OnMatch]) -> Resource:
    composite = frame(2, exact_map(_OWN[direction], trees)) if trees else b""
    body = extension(CHANGES[direction], "envoy.extensions.filters.http.composite.v3.Composite", composite)
    return Resource(FILTER_CONFIG, CHANGES[direction], body)
