"""Rules of which only header conditions are left, as a tree: a value that is asked for is looked up in a map.

All rules here allow, so the tree is their union. Each rule stands under the value of one of its headers, the one that
most rules ask about; what it asks besides is decided below. Rules that ask for no value (presence), or for headers that
few ask about, are tried in turn: each map is three messages deeper than the one before, and Envoy reads a hundred.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ...policies.endpoint_policy import HeaderMatch
from ...policies.secret import MARK
from .header_condition import all_hold
from .matcher import OnMatch, descend, exact_map, first_of, request_header
from .rbac_action import allow

_FEW = 4  # so many rules are tried faster than looked up
_MAPS = (8, 4, 4)  # at most so many, one behind the other, below how many headers


class Needing(NamedTuple):
    """A rule by the name of its action, and the headers that must still hold; at least one in all given to
    `header_tree`."""

    name: str
    headers: tuple[HeaderMatch, ...]


def header_tree(rules: Sequence[Needing], otherwise: OnMatch | None = None, depth: int = 0) -> OnMatch:
    """The union of at least one rule; `otherwise` (or a miss) where none matches. So many headers (`depth`) have been
    looked up before."""
    if len(rules) <= _FEW or depth == len(_MAPS):
        return _list(rules, otherwise)
    uses = Counter(_place(header) for rule in rules for header in rule.headers if header.value)
    chosen = [_most_used(rule, uses) for rule in rules]
    sizes = Counter(_place(header) for header in chosen if header is not None)
    looked_up = {place for place, _ in sizes.most_common(_MAPS[depth])}
    maps: dict[tuple[str, bool], dict[str, list[Needing]]] = {}
    others: list[Needing] = []
    for rule, header in zip(rules, chosen, strict=True):
        if header is None or _place(header) not in looked_up:
            others.append(rule)
            continue
        left = Needing(rule.name, tuple(other for other in rule.headers if other is not header))
        maps.setdefault(_place(header), {}).setdefault(header.value or "", []).append(left)
    tree = _list(others, otherwise) if others else otherwise
    for (name, secret), values in maps.items():
        reads = request_header(name, MARK if secret else "header")
        below = {value: _below(values[value], depth + 1) for value in sorted(values)}
        tree = descend(exact_map(reads, below, tree))
    assert tree is not None
    return tree


def _below(rules: Sequence[Needing], depth: int) -> OnMatch:
    for rule in rules:
        if not rule.headers:
            return allow(rule.name)
    return header_tree(rules, depth=depth)


def _most_used(rule: Needing, uses: Counter[tuple[str, bool]]) -> HeaderMatch | None:
    """Of the headers whose value it asks for the one that most rules ask about."""
    asked = [header for header in rule.headers if header.value]
    return max(asked, key=lambda header: uses[_place(header)]) if asked else None


def _place(header: HeaderMatch) -> tuple[str, bool]:
    """Which map a value belongs into: those with values of secrets are apart, to be struck out whole where shown."""
    return header.name, header.secret


def _list(rules: Sequence[Needing], otherwise: OnMatch | None) -> OnMatch:
    entries = {all_hold(rule.headers): allow(rule.name) for rule in reversed(rules)}
    return descend(first_of(list(reversed(entries.items())), otherwise))
