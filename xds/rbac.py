"""Compiles the node's policies into the filters of its shared Envoy: in each direction RBAC and header changes.

One pass through Envoy enforces the client's egress and then the server's ingress. Each filter is one matcher tree that
travels by ECDS: own address -> destination port -> peer address -> the verdict, or the HTTP rules that give it. An
endpoint that is policed in a direction gets the whole verdict of that direction for TCP there, so that the tree is
right on its own whatever the kernel sends; every other address is allowed, because the kernel has judged it.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter

What header matches do instead of failing is another filter behind the RBAC filter of its direction (see change_filter):
both judge the request as it came there, and the server's policy what the client's left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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
from ..policies.workload import Endpoint
from .address import as_envoy_prints
from .change_filter import ChangeCompiler, Compiled, Policed
from .flow_tree import flow_tree
from .fragment_cache import FragmentCache
from .http_tree import Condition, conditions, http_tree
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, Input, OnMatch, exact_map, extension
from .peers import PrefixIndex
from .rbac_action import allow, deny
from .rule_name import NOT_POLICED, default_allow, no_rule_matched, none_of_these_matched
from .snapshot import FILTER_CONFIG, Resource, Snapshot
from .wire import frame

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
    """The filters, ready to publish, and the rules that could not be expressed: what they cover is denied meanwhile.

    `made_of` is what they were compiled from.
    """

    filters: Mapping[Direction, Resource]
    changes: Mapping[Direction, Resource]
    refused: Mapping[RuleOrigin, str]
    made_of: Compiled

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
        self._rules = FragmentCache[int, tuple[Condition, ...]]()
        self._halves = FragmentCache[int, _Half]()
        self._headers = ChangeCompiler()

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
        made_of = Compiled(endpoints, ipcache, policed)
        refused: dict[RuleOrigin, str] = {}
        filters: dict[Direction, Resource] = {}
        changes: dict[Direction, Resource] = {}
        for direction in (Direction.EGRESS, Direction.INGRESS):
            filters[direction] = self._filter(direction, made_of.halves(direction), refused)
            changes[direction] = self._headers.filter(direction, made_of, self._indexes, self._indexes_at)
        self._forget_all_but([half for _, policy in endpoints for half in (policy.ingress, policy.egress)])
        return NodeResources(MappingProxyType(filters), MappingProxyType(changes), MappingProxyType(refused), made_of)

    def steps(self, before: NodeResources | None, after: NodeResources) -> list[Snapshot]:
        """What to publish, one after the other as Envoy takes each up, to get from the one to the other.

        At every moment a request that either policy allows gets at least the changes to its headers that this policy
        asks for. `before` None: it is not known what Envoy has.
        """
        if before is None or before.changes == after.changes:
            return [after.snapshot()]
        bridge = [self._headers.bridge(direction, before.made_of, after.made_of) for direction in Direction]
        return [
            Snapshot.of((*bridge, *before.filters.values())),
            Snapshot.of((*bridge, *after.filters.values())),
            after.snapshot(),
        ]

    def _filter(
        self,
        direction: Direction,
        endpoints: Sequence[tuple[Endpoint, DirectionPolicy]],
        refused: dict[RuleOrigin, str],
    ) -> Resource:
        trees: dict[str, OnMatch] = {}
        claimed: dict[str, str] = {}
        for endpoint, half in endpoints:
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
                [condition for rule in covering for condition in self._expressed(rule)],
                deny(none_of_these_matched([rule.origin for rule in covering])),
            ),
        )

    def _expressed(self, rule: ResolvedRule) -> tuple[Condition, ...]:
        return self._rules.get(id(rule), rule, lambda: _express(rule))

    def _half(self, half: DirectionPolicy) -> _Half:
        return self._halves.get(id(half), half, lambda: self._read_half(half))

    def _read_half(self, half: DirectionPolicy) -> _Half:
        return _Half(frozenset(id(rule) for rule in half.rules), self._headers.impossible(half))

    def _forget_all_but(self, halves: Sequence[DirectionPolicy]) -> None:
        live = {id(half): self._half(half).rules for half in halves}
        rules = frozenset[int]().union(*live.values())
        self._subtrees.keep(lambda key: key[3] in live and key[4] == self._indexes_at)
        self._unions.keep(rules.issuperset)
        self._rules.keep(rules.__contains__)
        self._halves.keep(live.__contains__)
        self._headers.forget_all_but(halves, self._indexes_at)


@dataclass(frozen=True, slots=True)
class _Half:
    """What is read off one direction's policy once: the ids of its rules, and those that were refused."""

    rules: frozenset[int]
    refused: Mapping[RuleOrigin, str]


def _express(rule: ResolvedRule) -> tuple[Condition, ...]:
    """A rule of another L7 kind, or one about TLS, matches no plain HTTP request."""
    if not isinstance(rule.l7, HttpRules) or rule.tls is not None:
        return ()
    return tuple(conditions(str(rule.origin), rule.l7))
