"""Compiles the node's policies into what its shared Envoy judges HTTP requests by.

One pass through Envoy enforces the client's egress and then the server's ingress. Each direction is divided into shards
(see shard.py), each a matcher tree that travels by ECDS: own identity -> destination port -> peer identity -> the
verdict, or the HTTP rules that give it. An endpoint that is policed in a direction gets the whole verdict of that
direction for TCP there, so that the tree is right on its own whatever the kernel sends; every other end is allowed,
because the kernel has judged it.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter

What header matches do instead of failing is a filter behind the RBAC filter (see change_filter): the server's policy
judges what the client's left. Both filters of a direction come in one resource and one request runs through one version
of it, so that none is judged by one policy and misses what that does to its headers.
https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/composite_filter
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import TypeAlias, TypeVar

from ...policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRules,
    ResolvedRule,
    RuleOrigin,
)
from ...policies.workload import Endpoint
from ..snapshot import FILTER_CONFIG, Resource, Snapshot
from ..wire import frame
from .change_filter import ChangeCompiler
from .flow_tree import flow_tree
from .fragment_cache import FragmentCache
from .header_change import run
from .http_tree import Condition, conditions, http_tree
from .matcher import OnMatch, always, extension
from .rbac_action import allow, deny
from .rule_name import default_allow, no_rule_matched, none_of_these_matched
from .shard import SHARDS, shard_name, shard_of
from .subject import PEER, Enforced, Judged, Policed, judged, policed_where, policy_of_subjects, subject_trees
from .whatever_is_inside import whatever_is_inside

_FILTERS = "envoy.extensions.filters.http."
_ShardKey: TypeAlias = tuple[Direction, int, bool, frozenset[int], tuple[object, ...]]
Whose = TypeVar("Whose", Endpoint, Judged)
_SPARE = 1.25  # times as many trees as were needed are kept at most before what is no longer needed is let go


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The filters, ready to publish: the shards of each direction, in their order. `refused` are the rules that could
    not be expressed: what they cover is denied meanwhile. `unjudged` are the identities of local endpoints that the
    shards of a direction have nothing to say about: what they send or get may as well not run through a filter."""

    shards: Mapping[Direction, tuple[Resource, ...]]
    refused: Mapping[RuleOrigin, str]
    unjudged: Mapping[Direction, frozenset[int]]

    def of(self, direction: Direction, identity: int) -> Resource:
        """The shard that the policy of an identity is in."""
        return self.shards[direction][shard_of(identity)]

    def snapshot(self) -> Snapshot:
        """The filters as what the server publishes."""
        return Snapshot.of(resource for shards in self.shards.values() for resource in shards)


def policed_by(endpoints: Iterable[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The (identity, direction) pairs with at least one rule that needs Envoy; dns rules do not."""
    return policed_where(endpoints, attrgetter("needs_envoy"))


def compile_node(endpoints: Enforced, policed: Policed) -> NodeResources:
    """Compile once. A node that compiles again and again keeps a NodeCompiler, which remembers the unchanged parts."""
    return NodeCompiler().compile(endpoints, policed)


class NodeCompiler:
    """`compile` is a pure function of its arguments; the object only remembers fragments of the last compilation."""

    def __init__(self) -> None:
        self._shards = FragmentCache[_ShardKey, Resource]()
        self._subtrees = FragmentCache[tuple[int, Direction, int], OnMatch]()
        self._needed = 0  # trees, when they were last sorted out
        self._unions = FragmentCache[tuple[int, ...], OnMatch | None]()
        self._rules = FragmentCache[int, tuple[Condition, ...]]()
        self._halves = FragmentCache[int, _Half]()
        self._headers = ChangeCompiler()

    def compile(self, endpoints: Enforced, policed: Policed) -> NodeResources:
        """Build all filters for these local endpoints.

        `policed` names the pairs that get a tree: those with a rule for Envoy now, and while a change is on its way
        also those that had one before. The same policy objects are taken as unchanged, and a shard whose policies are
        is not built again.
        """
        refused: dict[RuleOrigin, str] = {}
        shards: dict[Direction, tuple[Resource, ...]] = {}
        current: set[_ShardKey] = set()
        identities = {endpoint.identity for endpoint, _ in endpoints}
        for direction in Direction:
            pairs = judged(direction, endpoints, policed)
            for _, half in pairs:
                refused.update(self._half(half).refused)
            own = _divided(endpoint for endpoint, _ in endpoints)
            policies = _divided(pairs)
            found = []
            for shard in range(SHARDS):
                key = _shard_key(direction, shard, own[shard], policies[shard], bool(pairs))
                current.add(key)
                make = partial(self._shard, direction, shard, own[shard], policies[shard], bool(pairs))
                found.append(self._shards.get(key, policies[shard], make))
            shards[direction] = tuple(found)
        self._shards.keep(current.__contains__)
        if len(self._subtrees) > _SPARE * self._needed:
            self._forget_all_but([half for _, policy in endpoints for half in (policy.ingress, policy.egress)])
        unjudged = {
            direction: frozenset(each for each in identities if (each, direction) not in policed)
            for direction in Direction
        }
        return NodeResources(MappingProxyType(shards), MappingProxyType(refused), MappingProxyType(unjudged))

    def _shard(
        self,
        direction: Direction,
        shard: int,
        own: Sequence[Endpoint],
        policies: Sequence[Judged],
        anybody: bool,
    ) -> Resource:
        """What judges requests to or from these endpoints. `anybody`: some endpoint of the node is policed in this
        direction; where nobody is, everything passes, which costs a request next to nothing."""

        def tree(identity: int, half: DirectionPolicy) -> OnMatch:
            key = (identity, direction, id(half))
            return self._subtrees.get(key, half, lambda: self._build_subtree(identity, direction, half))

        trees = subject_trees(direction, policies, tree)
        name = shard_name(direction, shard)
        rbac = frame(4, policy_of_subjects(direction, trees, own)) if anybody else b""
        changing = self._headers.matcher(direction, policies)
        if changing is None:
            return Resource(FILTER_CONFIG, name, extension(name, f"{_FILTERS}rbac.v3.RBAC", rbac))
        judging = extension("rbac", f"{_FILTERS}rbac.v3.RBAC", rbac)
        chain = run([judging, extension("headers", f"{_FILTERS}composite.v3.Composite", frame(2, changing))])
        return Resource(
            FILTER_CONFIG, name, extension(name, f"{_FILTERS}composite.v3.Composite", frame(2, always(chain)))
        )

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
        settled = whatever_is_inside(covering, allow, deny, unmatched, uncovered, refused)
        return settled if settled is not None else self._union(covering) or unmatched

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
        self._needed = len(self._subtrees)
        self._unions.keep(rules.issuperset)
        self._rules.keep(rules.__contains__)
        self._halves.keep(live.__contains__)
        self._headers.forget_all_but(halves)


def _divided(whose: Iterable[Whose]) -> list[list[Whose]]:
    """By shard."""
    shards: list[list[Whose]] = [[] for _ in range(SHARDS)]
    for each in whose:
        endpoint = each if isinstance(each, Endpoint) else each[0]
        shards[shard_of(endpoint.identity)].append(each)
    return shards


def _shard_key(
    direction: Direction, shard: int, own: Iterable[Endpoint], policies: Iterable[Judged], anybody: bool
) -> _ShardKey:
    """All that a shard depends on. Addresses are a part of it only where endpoints of one identity differ."""
    identities = frozenset(endpoint.identity for endpoint in own)
    variants: dict[int, dict[int, list[Endpoint]]] = {}
    for endpoint, half in policies:
        variants.setdefault(endpoint.identity, {}).setdefault(id(half), []).append(endpoint)
    return (
        direction,
        shard,
        anybody,
        identities,
        tuple(
            (identity, half, tuple((each.key, each.ips) for each in members) if len(by_half) > 1 else ())
            for identity, by_half in sorted(variants.items())
            for half, members in by_half.items()
        ),
    )


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
