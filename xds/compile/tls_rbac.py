"""Compiles the rules about TLS: how the TLS listener chooses a filter chain, and the filters that judge behind it.

In each direction the tree is of the same shape as those for HTTP (see rbac.py): own identity -> destination port ->
peer identity -> what the rules say (see tls_verdict.py and tls_chain.py). Connections that are carried as they are, are
judged once, by a network filter for each direction; those of an endpoint without such rules come here because of the
other end, and the kernel has judged its side. Requests in connections that one direction's policy has had taken up are
judged by that direction's HTTP filters, and no others come there.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/rbac_filter
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import MappingProxyType
from typing import TypeAlias

from ...policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, ResolvedRule, RuleOrigin
from ...policies.workload import Endpoint
from ..snapshot import FILTER_CONFIG, Resource
from ..wire import frame, text
from .change_filter import TOO_MANY
from .change_tree import TooManyChanges, change_tree
from .flow_tree import coverings, flow_tree
from .fragment_cache import FragmentCache
from .header_change import NOTHING
from .matcher import Matcher, OnMatch, always, exact_map, extension
from .rbac_action import allow, deny
from .rule_name import default_allow, no_rule_matched
from .subject import OWN, PEER, Enforced, Judged, Policed, judged, policed_where, policy_of_subjects, subject_trees
from .tls_chain import MISS, Chain, chain_matcher, chain_tree
from .tls_verdict import carried, changing, requested

TLS_FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.tls.egress", Direction.INGRESS: "lockgate.tls.ingress"}
)
# Judges what the client's policy has had taken up and does not look as its greeting said any more.
TAKEN_INGRESS = "lockgate.tls.taken.ingress"
TLS_HTTP_FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.tls.http.egress", Direction.INGRESS: "lockgate.tls.http.ingress"}
)

# Identity, direction, its policy there -> the tree behind the identity.
_Build: TypeAlias = Callable[[int, Direction, DirectionPolicy], OnMatch]
_Say: TypeAlias = Callable[[Sequence[ResolvedRule], OnMatch, OnMatch], OnMatch]


@dataclass(frozen=True, slots=True)
class TlsPolicy:
    """What Envoy is told: the filters; the matcher of the listener, and the chains it leads to beside those that are
    always there. `refused` are rules that Envoy cannot carry out: what they cover is denied."""

    filters: tuple[Resource, ...]
    matcher: Matcher
    chains: frozenset[Chain]
    refused: Mapping[RuleOrigin, str]


def tls_policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (identity, direction) pairs with at least one rule about TLS connections."""
    return policed_where(endpoints, attrgetter("about_tls"))


class TlsCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._subtrees = FragmentCache[tuple[str, int, Direction, int], OnMatch]()
        self._choices = FragmentCache[tuple[Direction, int], tuple[OnMatch, frozenset[Chain]]]()
        self._refusals = FragmentCache[int, Mapping[RuleOrigin, str]]()

    def compile(self, endpoints: Enforced, policed: Policed) -> TlsPolicy:
        """The arguments are as for NodeCompiler.compile."""
        live = {id(half) for _, policy in endpoints for half in (policy.ingress, policy.egress)}
        self._subtrees.keep(lambda key: key[3] in live)
        self._choices.keep(lambda key: key[1] in live)
        self._refusals.keep(live.__contains__)
        by_direction = {direction: judged(direction, endpoints, policed) for direction in Direction}
        own = [endpoint for endpoint, _ in endpoints]
        filters = [self._network_filter(TLS_FILTERS[each], each, by_direction[each], own) for each in TLS_FILTERS]
        filters.append(self._network_filter(TAKEN_INGRESS, Direction.INGRESS, by_direction[Direction.INGRESS], own))
        for direction in TLS_HTTP_FILTERS:
            filters += self._http_filters(direction, by_direction[direction])
        matcher, chains = self._chains(by_direction)
        refused = {
            origin: why
            for pairs in by_direction.values()
            for _, half in pairs
            for origin, why in self._refused(half).items()
        }
        return TlsPolicy(tuple(filters), matcher, chains, MappingProxyType(refused))

    def _network_filter(
        self, name: str, direction: Direction, pairs: Sequence[Judged], own: Sequence[Endpoint]
    ) -> Resource:
        def say(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
            return carried(covering, unmatched, uncovered, by_name=name != TAKEN_INGRESS)

        trees = self._trees(name, direction, pairs, _verdicts(say))
        rbac = text(3, name.replace(".", "_") + ".")
        if trees:
            rbac += frame(6, policy_of_subjects(direction, trees, own))
        return Resource(FILTER_CONFIG, name, extension(name, "envoy.extensions.filters.network.rbac.v3.RBAC", rbac))

    def _http_filters(self, direction: Direction, pairs: Sequence[Judged]) -> Iterable[Resource]:
        """The verdict on requests, and what becomes of their headers. Nobody is here without being policed."""
        name = TLS_HTTP_FILTERS[direction]
        nobody = deny(f"lockgate:nothing-is-taken-up:{direction}")
        trees = self._trees(name, direction, pairs, _verdicts(_requested))
        rbac = frame(4, exact_map(OWN[direction], trees, nobody) if trees else always(nobody))
        yield Resource(FILTER_CONFIG, name, extension(name, "envoy.extensions.filters.http.rbac.v3.RBAC", rbac))
        name = f"{name}.headers"
        trees = self._trees(name, direction, pairs, _changes)
        trees = {identity: tree for identity, tree in trees.items() if tree != NOTHING}
        body = frame(2, exact_map(OWN[direction], trees)) if trees else b""
        body = extension(name, "envoy.extensions.filters.http.composite.v3.Composite", body)
        yield Resource(FILTER_CONFIG, name, body)

    def _trees(self, kind: str, direction: Direction, pairs: Sequence[Judged], build: _Build) -> dict[str, OnMatch]:
        def tree(identity: int, half: DirectionPolicy) -> OnMatch:
            key = (kind, identity, direction, id(half))
            return self._subtrees.get(key, half, lambda: build(identity, direction, half))

        return subject_trees(direction, pairs, tree)

    def _refused(self, half: DirectionPolicy) -> Mapping[RuleOrigin, str]:
        def find() -> Mapping[RuleOrigin, str]:
            found: dict[RuleOrigin, str] = {}
            for covering in coverings(tuple(rule for rule in half.rules if changing([rule]))):
                if _change(covering) is None:
                    found |= {rule.origin: TOO_MANY for rule in covering}
            return found

        return self._refusals.get(id(half), half, find)

    def _chains(self, by_direction: Mapping[Direction, Sequence[Judged]]) -> tuple[Matcher, frozenset[Chain]]:
        used: set[Chain] = set()

        def trees(direction: Direction) -> dict[str, OnMatch]:
            def tree(_: int, half: DirectionPolicy) -> OnMatch:
                found, chains = self._choices.get((direction, id(half)), half, lambda: _choice(direction, half))
                used.update(chains)
                return found

            found = subject_trees(direction, by_direction[direction], tree)
            return {identity: on_match for identity, on_match in found.items() if on_match != MISS}

        matcher = chain_matcher(trees(Direction.EGRESS), trees(Direction.INGRESS))
        return matcher, frozenset(used)


def _verdicts(say: _Say) -> _Build:
    def build(identity: int, direction: Direction, half: DirectionPolicy) -> OnMatch:
        unmatched = deny(no_rule_matched(identity, direction))
        uncovered = unmatched if half.default_deny else allow(default_allow(identity, direction))

        def verdict(covering: Sequence[ResolvedRule]) -> OnMatch:
            return say(covering, unmatched, uncovered)

        return flow_tree(PEER[direction], half.rules, verdict, uncovered)

    return build


def _requested(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
    return unmatched if _change(covering) is None else requested(covering, unmatched, uncovered)


def _changes(_: int, direction: Direction, half: DirectionPolicy) -> OnMatch:
    acting = tuple(rule for rule in half.rules if changing([rule]))

    def say(covering: Sequence[ResolvedRule]) -> OnMatch:
        return _change(covering) or NOTHING  # where that is too much all is denied

    return flow_tree(PEER[direction], acting, say, NOTHING) if acting else NOTHING


def _change(covering: Sequence[ResolvedRule]) -> OnMatch | None:
    """What the rules do to headers together; None when that is more than a filter can hold."""
    try:
        return change_tree(changing(covering))
    except TooManyChanges:
        return None


def _choice(direction: Direction, half: DirectionPolicy) -> tuple[OnMatch, frozenset[Chain]]:
    used: set[Chain] = set()

    def say(covering: Sequence[ResolvedRule]) -> OnMatch:
        tree, chains = chain_tree(direction, covering)
        used.update(chains)
        return tree

    tree = flow_tree(PEER[direction], half.rules, say, MISS, apart=True)
    return (tree, frozenset(used)) if used else (MISS, frozenset())
