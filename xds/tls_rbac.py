"""Compiles the rules about TLS connections (serverNames) into two network RBAC filters, one for each direction.

They judge a connection once, by the server name in its greeting, and are trees of the same shape as those for HTTP (see
rbac.py): own identity -> destination port -> peer identity -> server name. Connections of an endpoint without such
rules come here because of the other end, and the kernel has judged its side.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/network_filters/rbac_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ..policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy, Protocol, ResolvedRule
from ..policies.proxy_kind import clash
from ..policies.workload import Endpoint
from .flow_tree import flow_tree
from .fragment_cache import FragmentCache
from .matcher import OnMatch, extension
from .rbac_action import allow, deny
from .rule_name import default_allow, no_rule_matched
from .server_name import server_name_tree
from .snapshot import FILTER_CONFIG, Resource
from .subject import PEER, Enforced, Halves, Policed, policy_of_subjects, subject_trees
from .wire import frame, text

TLS_FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.tls.egress", Direction.INGRESS: "lockgate.tls.ingress"}
)


def has_tls(half: DirectionPolicy) -> bool:
    """True when a rule of this direction is about TLS connections."""
    return any(rule.tls is not None for rule in half.rules)


def tls_policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (identity, direction) pairs with at least one rule about TLS connections."""
    return frozenset(
        (endpoint.identity, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if has_tls(policy.direction(direction))
    )


class TlsCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._subtrees = FragmentCache[tuple[int, Direction, int], OnMatch]()

    def compile(self, endpoints: Enforced, policed: Policed) -> tuple[Resource, ...]:
        """Both filters. The arguments are as for NodeCompiler.compile."""
        live = {id(half) for _, policy in endpoints for half in (policy.ingress, policy.egress)}
        self._subtrees.keep(lambda key: key[2] in live)
        return tuple(self._filter(direction, endpoints, policed) for direction in TLS_FILTERS)

    def _filter(self, direction: Direction, endpoints: Enforced, policed: Policed) -> Resource:
        def tree(identity: int, halves: Halves) -> OnMatch:
            (half,) = halves
            key = (identity, direction, id(half))
            return self._subtrees.get(key, half, lambda: _build_subtree(identity, direction, half))

        halves = [
            (endpoint, (policy.direction(direction),))
            for endpoint, policy in endpoints
            if (endpoint.identity, direction) in policed
        ]
        trees = subject_trees(direction, halves, tree)
        name = TLS_FILTERS[direction]
        rbac = text(3, name.replace(".", "_") + ".")
        if trees:
            rbac += frame(6, policy_of_subjects(direction, trees, endpoints))
        return Resource(FILTER_CONFIG, name, extension(name, "envoy.extensions.filters.network.rbac.v3.RBAC", rbac))


def _build_subtree(identity: int, direction: Direction, half: DirectionPolicy) -> OnMatch:
    unmatched = deny(no_rule_matched(identity, direction))
    uncovered = unmatched if half.default_deny else allow(default_allow(identity, direction))

    def say(covering: Sequence[ResolvedRule]) -> OnMatch:
        return _verdict(covering, unmatched, uncovered)

    return flow_tree(PEER[direction], half.rules, say, uncovered)


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
