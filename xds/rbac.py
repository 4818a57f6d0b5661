"""Compiles the node's policies into the filters of its shared Envoy: in each direction RBAC and header changes.

One pass through Envoy enforces the client's egress and then the server's ingress. Each filter is one matcher tree that
travels by ECDS: own address -> destination port -> peer address -> the verdict, or the HTTP rules that give it. An
endpoint that is policed in a direction gets the whole verdict of that direction for TCP there, so that the tree is
right on its own whatever the kernel sends; every other address is allowed, because the kernel has judged it.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter

What header matches do instead of failing is another tree of the same shape, in a filter behind the RBAC filter of its
direction (see change_tree): both judge the request as it came there, and the server's policy what the client's left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from socket import AF_INET, AF_INET6, inet_ntop
from types import MappingProxyType
from typing import TypeAlias

from ..policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    DnsRules,
    EndpointPolicy,
    HttpRules,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from ..policies.identity import IPNetwork
from ..policies.proxy_kind import clash
from ..policies.workload import Endpoint, IPAddress
from .change_tree import Acting, TooManyChanges, acting_rules, change_tree
from .flow_tree import coverings, flow_tree
from .fragment_cache import FragmentCache
from .header_change import NOTHING
from .http_tree import Condition, conditions, http_tree
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, Input, OnMatch, exact_map, extension
from .peers import PrefixIndex
from .rbac_action import allow, deny
from .rule_name import NOT_POLICED, default_allow, no_rule_matched, none_of_these_matched
from .snapshot import FILTER_CONFIG, Resource, Snapshot
from .wire import frame

Policed: TypeAlias = frozenset[tuple[str, Direction]]  # (endpoint key, direction)

FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress", Direction.INGRESS: "lockgate.http.ingress"}
)
CHANGES: Mapping[Direction, str] = MappingProxyType(
    {direction: f"{name}.headers" for direction, name in FILTERS.items()}
)
_OWN: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP}
)
_PEER: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DESTINATION_IP, Direction.INGRESS: DIRECT_SOURCE_IP}
)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The filters, ready to publish, and the rules that could not be expressed: what they cover is denied meanwhile."""

    filters: Mapping[Direction, Resource]
    changes: Mapping[Direction, Resource]
    refused: Mapping[RuleOrigin, str]

    def snapshot(self) -> Snapshot:
        """The filters as what the server publishes."""
        return Snapshot.of((*self.changes.values(), *self.filters.values()))


def policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (endpoint key, direction) pairs with at least one rule that needs Envoy; dns rules do not."""
    return frozenset(
        (endpoint.key, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if any(rule.redirects and not isinstance(rule.l7, DnsRules) for rule in policy.direction(direction).rules)
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
        self._changing = FragmentCache[tuple[str, Direction, int, int, int], OnMatch]()
        self._changes = FragmentCache[tuple[int, ...], OnMatch | None]()
        self._rules = FragmentCache[int, _Expressed]()
        self._halves = FragmentCache[int, _Half]()

    def compile(
        self,
        endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
        ipcache: Mapping[IPNetwork, int],
        policed: Policed,
    ) -> NodeResources:
        """Build all filters.

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
        filters: dict[Direction, Resource] = {}
        changes: dict[Direction, Resource] = {}
        for direction in (Direction.EGRESS, Direction.INGRESS):
            enforced = [pair for pair in endpoints if (pair[0].key, direction) in policed]
            filters[direction] = self._filter(direction, enforced, refused)
            changes[direction] = self._changing_filter(direction, enforced)
        self._forget_all_but(half for _, policy in endpoints for half in (policy.ingress, policy.egress))
        return NodeResources(MappingProxyType(filters), MappingProxyType(changes), MappingProxyType(refused))

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
        refused = self._half(half).refused

        def verdict(covering: Sequence[ResolvedRule]) -> OnMatch:
            return self._verdict(covering, unmatched, uncovered, refused)

        return flow_tree(_PEER[direction], self._indexes[version], half.rules, verdict, uncovered, unmatched)

    def _changing_filter(self, direction: Direction, endpoints: Sequence[tuple[Endpoint, EndpointPolicy]]) -> Resource:
        trees: dict[str, OnMatch] = {}
        for endpoint, policy in sorted(endpoints, key=lambda pair: pair[0].key):
            half = policy.direction(direction)
            if self._half(half).acting:
                for address in endpoint.ips:
                    key = (endpoint.key, direction, address.version, id(half), self._indexes_at)
                    tree = self._changing.get(
                        key, half, partial(self._build_changing, direction, half, address.version)
                    )
                    trees.setdefault(as_envoy_prints(address), tree)
        name = CHANGES[direction]
        composite = frame(2, exact_map(_OWN[direction], trees)) if trees else b""
        body = extension(name, "envoy.extensions.filters.http.composite.v3.Composite", composite)
        return Resource(FILTER_CONFIG, name, body)

    def _build_changing(self, direction: Direction, half: DirectionPolicy, version: int) -> OnMatch:
        """What request rules do to headers. Deny rules are not asked: a request they deny is gone before."""

        def say(covering: Sequence[ResolvedRule]) -> OnMatch:
            return self._change(covering) or NOTHING

        acting = self._half(half).acting
        return flow_tree(_PEER[direction], self._indexes[version], acting, say, NOTHING, NOTHING)

    def _change(self, covering: Sequence[ResolvedRule]) -> OnMatch | None:
        """What the rules do together; None when that is more than a filter can hold."""

        def make() -> OnMatch | None:
            try:
                return change_tree([acting for rule in covering for acting in self._expressed(rule).acting])
            except TooManyChanges:
                return None

        return self._changes.get(tuple(id(rule) for rule in covering), tuple(covering), make)

    def _verdict(
        self,
        covering: Sequence[ResolvedRule],
        unmatched: OnMatch,
        uncovered: OnMatch,
        refused: Mapping[RuleOrigin, str],
    ) -> OnMatch:
        """What the rules that cover a peer and a port say together; `uncovered` is the say of no rule at all."""
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
        if uncovered != unmatched:  # enableDefaultDeny false: an L7 rule then lets every other request through
            return uncovered
        return self._union(covering) or unmatched

    def _union(self, covering: Sequence[ResolvedRule]) -> OnMatch | None:
        """The HTTP rules among them as one tree, which denies in their name what none of them matches."""
        return self._unions.get(
            tuple(id(rule) for rule in covering),
            tuple(covering),
            lambda: http_tree(
                [condition for rule in covering for condition in self._expressed(rule).conditions],
                deny(none_of_these_matched([rule.origin for rule in covering])),
            ),
        )

    def _expressed(self, rule: ResolvedRule) -> _Expressed:
        return self._rules.get(id(rule), rule, lambda: _express(rule))

    def _half(self, half: DirectionPolicy) -> _Half:
        return self._halves.get(id(half), half, lambda: self._read_half(half))

    def _read_half(self, half: DirectionPolicy) -> _Half:
        acting = tuple(rule for rule in half.rules if self._expressed(rule).acting)
        refused = {
            rule.origin: _TOO_MANY
            for covering in coverings(acting)
            if self._change(covering) is None
            for rule in covering
        }
        return _Half(frozenset(id(rule) for rule in half.rules), acting, refused)

    def _forget_all_but(self, halves: Iterable[DirectionPolicy]) -> None:
        live = {id(half): self._half(half).rules for half in halves}
        rules = frozenset[int]().union(*live.values())
        self._subtrees.keep(lambda key: key[3] in live and key[4] == self._indexes_at)
        self._unions.keep(rules.issuperset)
        self._changing.keep(lambda key: key[3] in live and key[4] == self._indexes_at)
        self._changes.keep(rules.issuperset)
        self._rules.keep(rules.__contains__)
        self._halves.keep(live.__contains__)


def as_envoy_prints(address: IPAddress) -> str:
    """The spelling of Envoy's IP inputs (inet_ntop); Python's own differs for IPv6 addresses that end in IPv4."""
    return inet_ntop(AF_INET if address.version == 4 else AF_INET6, address.packed)


_TOO_MANY = (
    "more header changes can come together on one port than Envoy takes, so all requests there are denied; "
    "write fewer rules with a mismatch action that the same request can match"
)


@dataclass(frozen=True, slots=True)
class _Expressed:
    """One rule as conditions, and as what it does to headers."""

    conditions: tuple[Condition, ...] = ()
    acting: tuple[Acting, ...] = ()


@dataclass(frozen=True, slots=True)
class _Half:
    """What is read off one direction's policy once: the ids of its rules, those that change headers, and those that
    were refused."""

    rules: frozenset[int]
    acting: tuple[ResolvedRule, ...]
    refused: Mapping[RuleOrigin, str]


def _express(rule: ResolvedRule) -> _Expressed:
    """A rule of another L7 kind, or one about TLS, matches no plain HTTP request."""
    if not isinstance(rule.l7, HttpRules) or rule.tls is not None:
        return _Expressed()
    name = str(rule.origin)
    return _Expressed(tuple(conditions(name, rule.l7)), tuple(acting_rules(name, rule.l7)))
