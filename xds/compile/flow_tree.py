"""The part of a tree that tells flows apart: destination port, then the peer's identity, then what the rules say.

A miss inside that goes on to what is said of peers that no rule names, and then to what is said of ports that no rule
speaks about. Both are harmless: rules for anyone are among those for each peer, and where requests are judged at all a
port without rules is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from ...policies.endpoint_policy import ResolvedRule
from .end import any_of_these, wherever
from .matcher import Input, OnMatch, descend, first_of, matches, not_, prefix_map
from .ports import PortGroup, port_groups, port_tree

# What the rules that cover a peer and a port (in policy order; maybe none) say together.
Say: TypeAlias = Callable[[Sequence[ResolvedRule]], OnMatch]


def flow_tree(
    peer: Input, rules: Sequence[ResolvedRule], say: Say, uncovered: OnMatch, *, apart: bool = False
) -> OnMatch:
    """The tree of these rules for TCP; `peer` reads an end. `uncovered` is for ports that no rule speaks about.
    `apart`: a miss inside what is said of one peer goes on to nothing that is said of others."""

    def tree_of(group: PortGroup) -> OnMatch:
        said: dict[tuple[int, ...], OnMatch] = {}

        def verdict(identity: int | None) -> OnMatch:
            covering = _covering(group, identity)
            if covering not in said:
                said[covering] = say([group.rules[at] for at in covering])
            return said[covering]

        ordinary = verdict(None)
        named = {identity: verdict(identity) for identity in sorted(_special(group))}
        differing = {identity: on_match for identity, on_match in named.items() if on_match != ordinary}
        by_end = {wherever(identity): on_match for identity, on_match in differing.items()}
        if differing and apart:
            named_here = matches(peer, any_of_these(differing))
            inside = descend(prefix_map(peer, by_end))
            return descend(first_of([(named_here, inside), (not_(named_here), ordinary)]))
        return descend(prefix_map(peer, by_end, ordinary)) if differing else ordinary

    # What the rules for every port say is part of what is said of each, so a miss may go on to it.
    return port_tree([(group, tree_of(group)) for group in port_groups(rules)], uncovered, rest_by_default=not apart)


def coverings(rules: Sequence[ResolvedRule]) -> Iterator[Sequence[ResolvedRule]]:
    """Every set of rules that can come together: all that `say` can be asked, whoever the peers turn out to be."""
    for group in port_groups(rules):
        for covering in {_covering(group, identity) for identity in (None, *_special(group))}:
            if covering:
                yield [group.rules[at] for at in covering]


def _covering(group: PortGroup, identity: int | None) -> tuple[int, ...]:
    """The positions of the group's rules that cover a peer; None is one that no rule names."""
    return tuple(
        at
        for at, rule in enumerate(group.rules)
        if rule.peers is None or (identity is not None and identity in rule.peers)
    )


def _special(group: PortGroup) -> frozenset[int]:
    """The identities that some rule names."""
    return frozenset[int]().union(*(rule.peers for rule in group.rules if rule.peers is not None))
