"""Compiles the node's policies into the two RBAC filters of its shared Envoy.

One pass through Envoy enforces the client's egress and then the server's ingress. Each filter is one matcher tree that
travels by ECDS: own address -> destination port -> peer address -> the verdict, or the HTTP rules that give it. An
endpoint that is policed in a direction gets the whole verdict of that direction for TCP there, so that the tree is
right on its own whatever the kernel sends; every other address is allowed, because the kernel has judged it.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from socket import AF_INET, AF_INET6, inet_ntop
from types import MappingProxyType
from typing import TypeAlias

from ..policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRules,
    MismatchAction,
    ResolvedRule,
    RuleOrigin,
)
from ..policies.identity import IPNetwork
from ..policies.workload import Endpoint, IPAddress
from .fragment_cache import FragmentCache
from .http_tree import Condition, conditions, http_tree
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, Input, OnMatch, exact_map, extension
from .peers import PrefixIndex, peer_tree
from .ports import PortGroup, port_groups, port_tree
from .rbac_action import allow, deny
from .rule_name import NOT_POLICED, default_allow, no_rule_matched
from .snapshot import FILTER_CONFIG, Resource, Snapshot
from .wire import frame

Policed: TypeAlias = frozenset[tuple[str, Direction]]  # (endpoint key, direction)

FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress", Direction.INGRESS: "lockgate.http.ingress"}
)
_OWN: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP}
)
_PEER: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DESTINATION_IP, Direction.INGRESS: DIRECT_SOURCE_IP}
)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The two filters, ready to publish, and the rules that could not be expressed: they match nothing meanwhile."""

    filters: Mapping[Direction, Resource]
    refused: Mapping[RuleOrigin, str]

    def snapshot(self) -> Snapshot:
        """The filters as what the server publishes."""
        return Snapshot.of(self.filters.values())


def policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (endpoint key, direction) pairs with at least one rule that needs Envoy."""
    return frozenset(
        (endpoint.key, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if policy.direction(direction).redirects
    )


def compile_node(
    endpoints: Sequence[tuple[Endpoint, EndpointPolicy]], ipcache: Mapping[IPNetwork, int], policed: Policed
) -> NodeResources:
    """Compile once. A node that compiles again and again keeps a NodeCompiler, which remembers the unchanged parts."""
    return NodeCompiler().compile(endpoints, ipcache, policed)


class NodeCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._ipcache: dict[IPNetwork, int] = {}
        self._seen: Mapping[IPNetwork, int] = self._ipcache
        self._indexes = {version: PrefixIndex({}, version) for version in (4, 6)}
        self._indexes_at = 0
        self._subtrees = FragmentCache[tuple[str, Direction, int, int, int], OnMatch]()
        self._unions = FragmentCache[tuple[int, ...], OnMatch | None]()
        self._rules = FragmentCache[int, _Expressed]()
        self._halves = FragmentCache[int, _Half]()

    def compile(
        self,
        endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
        ipcache: Mapping[IPNetwork, int],
        policed: Policed,
    ) -> NodeResources:
        """Build both filters.

        `ipcache` maps prefixes to identities, of which the longest that holds an address counts. It must not be changed
        afterwards: the same object is taken as unchanged, as are the same policies. `policed` names the pairs that get
        a tree: those with a rule for Envoy now, and while a change is on its way also those that had one before.
        """
        if ipcache is not self._seen and ipcache != self._ipcache:
            self._ipcache = dict(ipcache)
            self._indexes = {version: PrefixIndex(self._ipcache, version) for version in (4, 6)}
            self._indexes_at += 1
        self._seen = ipcache
        refused: dict[RuleOrigin, str] = {}
        filters = {
            direction: self._filter(
                direction, [pair for pair in endpoints if (pair[0].key, direction) in policed], refused
            )
            for direction in (Direction.EGRESS, Direction.INGRESS)
        }
        self._forget_all_but(half for _, policy in endpoints for half in (policy.ingress, policy.egress))
        return NodeResources(MappingProxyType(filters), MappingProxyType(refused))

    def _filter(
        self,
        direction: Direction,
        endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
        refused: dict[RuleOrigin, str],
    ) -> Resource:
        trees: dict[str, OnMatch] = {}
        claimed: dict[str, str] = {}
        for endpoint, policy in sorted(endpoints, key=lambda pair: pair[0].key):
            half = policy.direction(direction)
            refused.update(self._half(half).refused)
            for address in endpoint.ips:
                key = as_envoy_prints(address)
                if claimed.setdefault(key, endpoint.key) != endpoint.key:
                    trees[key] = deny(f"address:{key}:claimed-by:{claimed[key]}:and:{endpoint.key}")
                else:
                    trees[key] = self._subtree(endpoint.key, direction, half, address.version)
        name = FILTERS[direction]
        # Where nobody is policed the filter is empty: it then costs a request next to nothing.
        rbac = frame(4, exact_map(_OWN[direction], trees, allow(NOT_POLICED))) if trees else b""
        body = extension(name, "envoy.extensions.filters.http.rbac.v3.RBAC", rbac)
        return Resource(FILTER_CONFIG, name, body)

    def _subtree(self, endpoint: str, direction: Direction, half: DirectionPolicy, version: int) -> OnMatch:
        """The whole verdict of one endpoint, direction and address family."""
        key = (endpoint, direction, version, id(half), self._indexes_at)
        return self._subtrees.get(key, half, lambda: self._build_subtree(endpoint, direction, half, version))

    def _build_subtree(self, endpoint: str, direction: Direction, half: DirectionPolicy, version: int) -> OnMatch:
        unmatched = deny(no_rule_matched(endpoint, direction))
        uncovered = unmatched if half.default_deny else allow(default_allow(endpoint, direction))
        index = self._indexes[version]

        def tree_of(group: PortGroup) -> OnMatch:
            verdicts: dict[tuple[int, ...], OnMatch] = {}

            def verdict(identity: int | None) -> OnMatch:
                covering = tuple(
                    at
                    for at, rule in enumerate(group.rules)
                    if rule.peers is None or (identity is not None and identity in rule.peers)
                )
                if covering not in verdicts:
                    verdicts[covering] = self._verdict([group.rules[at] for at in covering], unmatched, uncovered)
                return verdicts[covering]

            special = frozenset[int]().union(*(rule.peers for rule in group.rules if rule.peers is not None))
            return peer_tree(_PEER[direction], index, special, verdict, unmatched)

        return port_tree([(group, tree_of(group)) for group in port_groups(half.rules)], uncovered)

    def _verdict(self, covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
        """What the rules that cover a peer and a port say together; `uncovered` is the say of no rule at all."""
        for rule in covering:
            if rule.deny:
                return deny(str(rule.origin))
        if not covering:
            return uncovered
        for rule in covering:
            if not rule.redirects:
                return allow(str(rule.origin))
        if uncovered != unmatched:  # enableDefaultDeny false: an L7 rule then lets every other request through
            return uncovered
        return self._union(covering) or unmatched

    def _union(self, covering: Sequence[ResolvedRule]) -> OnMatch | None:
        """The HTTP rules among them as one tree."""
        return self._unions.get(
            tuple(id(rule) for rule in covering),
            tuple(covering),
            lambda: http_tree([condition for rule in covering for condition in self._expressed(rule).conditions]),
        )

    def _expressed(self, rule: ResolvedRule) -> _Expressed:
        return self._rules.get(id(rule), rule, lambda: _express(rule))

    def _half(self, half: DirectionPolicy) -> _Half:
        return self._halves.get(id(half), half, lambda: self._read_half(half))

    def _read_half(self, half: DirectionPolicy) -> _Half:
        refused = {rule.origin: reason for rule in half.rules if (reason := self._expressed(rule).refusal) is not None}
        return _Half(frozenset(id(rule) for rule in half.rules), refused)

    def _forget_all_but(self, halves: Iterable[DirectionPolicy]) -> None:
        live = {id(half): self._half(half).rules for half in halves}
        rules = frozenset[int]().union(*live.values())
        self._subtrees.keep(lambda key: key[3] in live and key[4] == self._indexes_at)
        self._unions.keep(rules.issuperset)
        self._rules.keep(rules.__contains__)
        self._halves.keep(live.__contains__)


def as_envoy_prints(address: IPAddress) -> str:
    """The spelling of Envoy's IP inputs (inet_ntop); Python's own differs for IPv6 addresses that end in IPv4."""
    return inet_ntop(AF_INET if address.version == 4 else AF_INET6, address.packed)


@dataclass(frozen=True, slots=True)
class _Expressed:
    """One rule as conditions; with a refusal it has none, because matching without its actions would be too open."""

    conditions: tuple[Condition, ...] = ()
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class _Half:
    """What is read off one direction's policy once: the ids of its rules, and those that were refused."""

    rules: frozenset[int]
    refused: Mapping[RuleOrigin, str]


def _express(rule: ResolvedRule) -> _Expressed:
    """A rule of another L7 kind, or one about TLS, matches no plain HTTP request."""
    if not isinstance(rule.l7, HttpRules) or rule.tls is not None:
        return _Expressed()
    actions = {header.mismatch for http in rule.l7.http for header in http.headers} - {MismatchAction.DENY}
    if actions:
        return _Expressed(
            refusal=f"headerMatches with mismatch {', '.join(sorted(actions))} cannot be carried out, "
            "so the rule allows nothing; leave `mismatch` out"
        )
    return _Expressed(tuple(conditions(str(rule.origin), rule.l7)))
