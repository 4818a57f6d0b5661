"""Compiles the node's policies into the filters of its shared Envoy: in each direction RBAC and header changes.

One pass through Envoy enforces the client's egress and then the server's ingress. Each filter is one matcher tree that
travels by ECDS: own identity -> destination port -> peer identity -> the verdict, or the HTTP rules that give it. An
endpoint that is policed in a direction gets the whole verdict of that direction for TCP there, so that the tree is
right on its own whatever the kernel sends; every other end is allowed, because the kernel has judged it.
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
from ..policies.proxy_kind import clash
from ..policies.workload import Endpoint
from .change_filter import ChangeCompiler, Compiled
from .flow_tree import flow_tree
from .fragment_cache import FragmentCache
from .http_tree import Condition, conditions, http_tree
from .matcher import OnMatch, extension
from .rbac_action import allow, deny
from .rule_name import default_allow, no_rule_matched, none_of_these_matched
from .snapshot import FILTER_CONFIG, Resource, Snapshot
from .subject import PEER, Enforced, Halves, Policed, policy_of_subjects, subject_trees
from .wire import frame

FILTERS: Mapping[Direction, str] = MappingProxyType(
    {Direction.EGRESS: "lockgate.http.egress", Direction.INGRESS: "lockgate.http.ingress"}
)
_SWEEP = 16  # compilations after which fragments that are no longer needed are let go


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
    """The (identity, direction) pairs with at least one rule that needs Envoy; dns rules do not."""
    return frozenset(
        (endpoint.identity, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if any(rule.redirects and not isinstance(rule.l7, DnsRules) for rule in policy.direction(direction).rules)
    )


def compile_node(endpoints: Enforced, policed: Policed) -> NodeResources:
    """Compile once. A node that compiles again and again keeps a NodeCompiler, which remembers the unchanged parts."""
    return NodeCompiler().compile(endpoints, policed)


class NodeCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._subtrees = FragmentCache[tuple[int, Direction, int], OnMatch]()
        self._since_sweep = 0
        self._unions = FragmentCache[tuple[int, ...], OnMatch | None]()
        self._rules = FragmentCache[int, tuple[Condition, ...]]()
        self._halves = FragmentCache[int, _Half]()
        self._headers = ChangeCompiler()

    def compile(self, endpoints: Enforced, policed: Policed) -> NodeResources:
        """Build all filters for these local endpoints.

        `policed` names the pairs that get a tree: those with a rule for Envoy now, and while a change is on its way
        also those that had one before. The same policy objects are taken as unchanged.
        """
        made_of = Compiled(endpoints, policed)
        refused: dict[RuleOrigin, str] = {}
        filters: dict[Direction, Resource] = {}
        changes: dict[Direction, Resource] = {}
        for direction in (Direction.EGRESS, Direction.INGRESS):
            filters[direction] = self._filter(direction, made_of, refused)
            changes[direction] = self._headers.filter(direction, made_of)
        self._since_sweep += 1
        if self._since_sweep > _SWEEP:
            self._since_sweep = 0
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

    def _filter(self, direction: Direction, made_of: Compiled, refused: dict[RuleOrigin, str]) -> Resource:
        def tree(identity: int, halves: Halves) -> OnMatch:
            (half,) = halves
            refused.update(self._half(half).refused)
            key = (identity, direction, id(half))
            return self._subtrees.get(key, half, lambda: self._build_subtree(identity, direction, half))

        trees = subject_trees(direction, made_of.halves(direction), tree)
        name = FILTERS[direction]
        # Where nobody is policed the filter is empty: it then costs a request next to nothing.
        rbac = frame(4, policy_of_subjects(direction, trees, made_of.endpoints)) if trees else b""
        body = extension(name, "envoy.extensions.filters.http.rbac.v3.RBAC", rbac)
        return Resource(FILTER_CONFIG, name, body)

    def _build_subtree(self, identity: int, direction: Direction, half: DirectionPolicy) -> OnMatch:
        """The whole verdict of one policy."""
        unmatched = deny(no_rule_matched(identity, direction))
        uncovered = unmatched if half.default_deny else allow(default_allow(identity, direction))
        refused = self._half(half).refused

        def verdict(covering: Sequence[ResolvedRule]) -> OnMatch:
            return self._verdict(covering, unmatched, uncovered, refused)

        return flow_tree(PEER[direction], half.rules, verdict, uncovered)

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
        self._subtrees.keep(lambda key: key[2] in live)
        self._unions.keep(rules.issuperset)
        self._rules.keep(rules.__contains__)
        self._halves.keep(live.__contains__)
        self._headers.forget_all_but(halves)


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
