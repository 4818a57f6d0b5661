"""Whose policy judges a connection: the local endpoint at one end of it, by its identity.

Envoy knows identities, not addresses: the listener filter of its dynamic module looks both ends up in the kernel's own
ipcache and leaves what it finds as filter state (see end.py). Replicas share an identity and so a tree. A new pod with
a known identity changes nothing here.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/matching/common_inputs/network/v3/network_inputs.proto
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeAlias

from ...policies.endpoint_policy import Direction, DirectionPolicy, EndpointPolicy
from ...policies.workload import Endpoint
from .address import as_envoy_prints
from .end import ELSEWHERE, OWN_END, PEER_END, end_text
from .matcher import (
    DESTINATION_IP,
    DIRECT_SOURCE_IP,
    Input,
    Matcher,
    OnMatch,
    descend,
    ends_with,
    exact_map,
    filter_state,
    first_of,
)
from .rbac_action import allow, deny
from .rule_name import NOT_POLICED, UNKNOWN_SUBJECT

Policed: TypeAlias = frozenset[tuple[int, Direction]]  # (identity of local endpoints, direction)
Enforced: TypeAlias = Sequence[tuple[Endpoint, EndpointPolicy]]
Judged: TypeAlias = tuple[Endpoint, DirectionPolicy]

OWN: Mapping[Direction, Input] = MappingProxyType({each: filter_state(key) for each, key in OWN_END.items()})
PEER: Mapping[Direction, Input] = MappingProxyType({each: filter_state(key) for each, key in PEER_END.items()})
_ADDRESS: Mapping[Direction, Input] = MappingProxyType(
    {Direction.EGRESS: DIRECT_SOURCE_IP, Direction.INGRESS: DESTINATION_IP}
)


def policed_where(
    endpoints: Iterable[tuple[Endpoint, EndpointPolicy]], asked: Callable[[DirectionPolicy], bool]
) -> Policed:
    """The pairs of which `asked` holds."""
    return frozenset(
        (endpoint.identity, direction)
        for endpoint, policy in endpoints
        for direction in Direction
        if asked(policy.direction(direction))
    )


def judged(direction: Direction, endpoints: Enforced, policed: Policed) -> list[Judged]:
    """Those that have a tree in a direction, each with its policy there."""
    return [
        (endpoint, policy.direction(direction))
        for endpoint, policy in endpoints
        if (endpoint.identity, direction) in policed
    ]


def subject_trees(
    direction: Direction, endpoints: Iterable[Judged], tree: Callable[[int, DirectionPolicy], OnMatch]
) -> dict[str, OnMatch]:
    """What `tree` says for each identity and its policy, by what OWN reads.

    Endpoints of one identity differ when a rule names a port that they number differently. Only then are they told
    apart, by their addresses.
    """
    variants: dict[int, dict[int, tuple[DirectionPolicy, list[Endpoint]]]] = {}
    for endpoint, half in sorted(endpoints, key=lambda pair: pair[0].key):
        of_identity = variants.setdefault(endpoint.identity, {})
        of_identity.setdefault(id(half), (half, []))[1].append(endpoint)
    trees: dict[str, OnMatch] = {}
    for identity, by_half in sorted(variants.items()):
        said = [(tree(identity, half), members) for half, members in by_half.values()]
        own = end_text(identity, here=True)
        if len({on_match for on_match, _ in said}) == 1:
            trees[own] = said[0][0]
        else:
            at = {as_envoy_prints(ip): on_match for on_match, members in said for each in members for ip in each.ips}
            trees[own] = descend(exact_map(_ADDRESS[direction], at)) if at else deny(UNKNOWN_SUBJECT)
    return trees


def policy_of_subjects(direction: Direction, trees: Mapping[str, OnMatch], endpoints: Iterable[Endpoint]) -> Matcher:
    """The matcher of an RBAC filter, by what OWN reads.

    Of these endpoints, those that have no tree were judged by the kernel alone, as was an end that is no endpoint of
    this node. An identity of which nothing is known here is denied, and an end of which nothing is.
    """
    own = OWN[direction]
    identities = sorted({endpoint.identity for endpoint in endpoints})
    passing = allow(NOT_POLICED)
    known = {end_text(identity, here=True): passing for identity in identities}
    unknown = first_of([(ends_with(own, ELSEWHERE), passing)], deny(UNKNOWN_SUBJECT))
    return exact_map(own, {**known, **trees}, descend(unknown)) if known or trees else unknown
