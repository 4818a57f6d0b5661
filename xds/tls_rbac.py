"""Compiles the rules about TLS connections (serverNames) into two network RBAC filters, one for each direction.

They judge a connection once, by the server name in its greeting, and are trees of the same shape as those for HTTP (see
rbac.py): own address -> destination port -> peer address -> server name. An endpoint without such rules is in neither:
its connections come here because of the other end, and the kernel has judged its side.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/rbac_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ..policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, Protocol, ResolvedRule
from ..policies.identity import IPNetwork
from ..policies.proxy_kind import clash
from ..policies.workload import Endpoint
from .address import as_envoy_prints
from .change_filter import Policed
from .flow_tree import flow_tree
from .fragment_cache import FragmentCache
from .matcher import DESTINATION_IP, DIRECT_SOURCE_IP, Input, OnMatch, exact_map, extension
from .peers import PrefixIndex
from .rbac_action import allow, deny
from .rule_name import NOT_POLICED, default_allow, no_rule_matched
from .server_name import server_name_tree
from .snapshot import FILTER_CONFIG, Resource
from .wire import frame, text

TLS_FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.tls.egress", Direction.INGRESS: "lockgate.tls.ingress"}
)
OWN: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP}
)
PEER: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DESTINATION_IP, Direction.INGRESS: DIRECT_SOURCE_IP}
)


def has_tls(half: DirectionPolicy) -> bool:
    """True when a rule of this direction is about TLS connections."""
    return any(rule.tls is not None for rule in half.rules)


def tls_policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (endpoint key, direction) pairs with at least one rule about TLS connections."""
    return frozenset(
        (endpoint.key, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if has_tls(policy.direction(direction))
    )


class TlsCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._ipcache: Mapping[IPNetwork, int] = {}
        self._indexes: dict[int, PrefixIndex] = {}
        self._subtrees = FragmentCache[tuple[str, Direction, int, int], OnMatch]()

    def compile(
        self,
        endpoints: Sequence[tuple[Endpoint, EndpointPolicy]],
        ipcache: Mapping[IPNetwork, int],
        policed: Policed,
    ) -> tuple[Resource, ...]:
        """Both filters. The arguments are as for NodeCompiler.compile."""
        if ipcache is not self._ipcache and (ipcache != self._ipcache or not self._indexes):
            self._indexes.clear()
            self._subtrees.keep(lambda _: False)
        self._ipcache = ipcache
        live = {id(half) for _, policy in endpoints for half in (policy.ingress, policy.egress)}
        self._subtrees.keep(lambda key: key[2] in live)
        return tuple(self._filter(direction, endpoints, policed) for direction in TLS_FILTERS)

    def _filter(
        self, direction: Direction, endpoints: Sequence[tuple[Endpoint, EndpointPolicy]], policed: Policed
    ) -> Resource:
        trees: dict[str, OnMatch] = {}
        claimed: dict[str, str] = {}
        for endpoint, policy in sorted(endpoints, key=lambda pair: pair[0].key):
            if (endpoint.key, direction) not in policed:
                continue
            half = policy.direction(direction)
            for address in endpoint.ips:
                key = as_envoy_prints(address)
                if claimed.setdefault(key, endpoint.key) != endpoint.key:
                    trees[key] = deny(f"address:{key}:claimed-by:{claimed[key]}:and:{endpoint.key}")
                else:
                    trees[key] = self._subtree(endpoint.key, direction, half, address.version)
        name = TLS_FILTERS[direction]
        rbac = text(3, name.replace(".", "_") + ".")
        if trees:
            rbac += frame(6, exact_map(OWN[direction], trees, allow(NOT_POLICED)))
        return Resource(FILTER_CONFIG, name, extension(name, "envoy.extensions.filters.network.rbac.v3.RBAC", rbac))

    def _subtree(self, endpoint: str, direction: Direction, half: DirectionPolicy, version: int) -> OnMatch:
        def build() -> OnMatch:
            unmatched = deny(no_rule_matched(endpoint, direction))
            uncovered = unmatched if half.default_deny else allow(default_allow(endpoint, direction))

            def say(covering: Sequence[ResolvedRule]) -> OnMatch:
                return _verdict(covering, unmatched, uncovered)

            return flow_tree(PEER[direction], self._index(version), half.rules, say, uncovered, unmatched)

        return self._subtrees.get((endpoint, direction, id(half), version), half, build)

    def _index(self, version: int) -> PrefixIndex:
        if version not in self._indexes:
            self._indexes[version] = PrefixIndex(self._ipcache, version)
        return self._indexes[version]


def _verdict(covering: Sequence[ResolvedRule], unmatched: OnMatch, uncovered: OnMatch) -> OnMatch:
    """What the rules that cover a peer and a port say of a connection that stays encrypted (or is not TLS at all)."""
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
    if uncovered != unmatched:  # enableDefaultDeny false
        return uncovered
    named = [
        (rule.tls.server_names, allow(str(rule.origin)))
        for rule in covering
        if rule.tls is not None and rule.tls.server_names and rule.tls.terminating_secret is None and rule.l7 is None
    ]
    return server_name_tree(named) or unmatched
