"""Rules of which only header conditions are left, as a tree: a value that is asked for is looked up in a map.

All rules here allow, so the tree is their union. Each rule stands under the value of one of its headers, the one that
most rules ask about; what it asks besides is decided below. Rules that ask for no value (presence) are tried in turn.
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


class Needing(NamedTuple):
    """A rule by the name of its action, and the headers that must still hold; at least one in all given to
    `header_tree`."""

    name: str
    headers: tuple[HeaderMatch, ...]


def header_tree(rules: Sequence[Needing], otherwise: OnMatch | None = None) -> OnMatch:
    """The union of at least one rule; `otherwise` (or a miss) where none matches."""
    if len(rules) <= _FEW:
        return _list(rules, otherwise)
    uses = Counter(_place(header) for rule in rules for header in rule.headers if header.value)
    maps: dict[tuple[str, bool], dict[str, list[Needing]]] = {}
    others: list[Needing] = []
    for rule in rules:
        asked = [header for header in rule.headers if header.value]
        if not asked:
            others.append(rule)
            continue
        chosen = max(asked, key=lambda header: uses[_place(header)])
        left = Needing(rule.name, tuple(header for header in rule.headers if header is not chosen))
        maps.setdefault(_place(chosen), {}).setdefault(chosen.value or "", []).append(left)
    tree = _list(others, otherwise) if others else otherwise
    for (name, secret), values in maps.items():
        reads = request_header(name, MARK if secret else "header")
        tree = descend(exact_map(reads, {value: _below(values[value]) for value in sorted(values)}, tree))
    assert tree is not None
    return tree


def _below(rules: Sequence[Needing]) -> OnMatch:
    for rule in rules:
        if not rule.headers:
            return allow(rule.name)
    return header_tree(rules)


def _place(header: HeaderMatch) -> tuple[str, bool]:
    """Which map a value belongs into: those with values of secrets are apart, to be struck out whole where shown."""
    return header.name, header.secret


def _list(rules: Sequence[Needing], otherwise: OnMatch | None) -> OnMatch:
    entries = {all_hold(rule.headers): allow(rule.name) for rule in reversed(rules)}
    return descend(first_of(list(reversed(entries.items())), otherwise))
