"""Destination ports as a matcher: which rules speak about which ports, looked up exactly or by a regex on the decimals.

The ports of one direction fall into groups with the same rules, so each group's tree is built and sent once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from ...policies.endpoint_policy import LAST_PORT, PortSpan, Protocol, ResolvedRule
from .matcher import DESTINATION_PORT, OnMatch, descend, exact_map, first_of, is_present, matches

MOST_COPIES = 8  # a group of more ports than this is matched by one regex instead of a copy of its tree per port


@dataclass(frozen=True, slots=True)
class PortGroup:
    """Ports for which the same rules count: sorted disjoint (first, last) pairs, and the rules in policy order."""

    spans: tuple[tuple[int, int], ...]
    rules: tuple[ResolvedRule, ...]

    @property
    def size(self) -> int:
        """How many ports it has."""
        return sum(last - first + 1 for first, last in self.spans)


def port_groups(rules: Sequence[ResolvedRule], protocol: Protocol = Protocol.TCP) -> list[PortGroup]:
    """Partition 0..65535 by the rules that cover a port of `protocol`; ports that no rule covers are in no group."""
    everywhere = (PortSpan(protocol, 0, LAST_PORT),)
    spans = [
        [span for span in (everywhere if rule.ports is None else rule.ports) if span.protocol is protocol]
        for rule in rules
    ]
    starts: dict[int, set[int]] = {}
    ends: dict[int, set[int]] = {}
    for index, listed in enumerate(spans):
        for first, last in _merged((span.first, span.last) for span in listed):
            starts.setdefault(first, set()).add(index)
            ends.setdefault(last + 1, set()).add(index)
    groups: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    cuts = sorted({*starts, *ends})
    covering: set[int] = set()
    for cut, following in pairwise(cuts):
        covering = (covering - ends.get(cut, set())) | starts.get(cut, set())
        if covering:
            groups.setdefault(tuple(sorted(covering)), []).append((cut, following - 1))
    return [PortGroup(tuple(_merged(found)), tuple(rules[index] for index in key)) for key, found in groups.items()]


def port_tree(
    groups: Sequence[tuple[PortGroup, OnMatch]], otherwise: OnMatch, *, rest_by_default: bool = True
) -> OnMatch:
    """The tree that sends each port to its group's tree, and every other port, as well as a miss, to `otherwise`.

    With `rest_by_default` the largest of groups that hold every port is where the others' ports are not: a regex of all
    ports but fifty costs Envoy more than their trees. A miss inside the others then goes through it to `otherwise`.
    """
    tree = otherwise
    if groups and sum(group.size for group, _ in groups) == LAST_PORT + 1 and (rest_by_default or len(groups) == 1):
        rest = max(groups, key=lambda pair: pair[0].size)
        groups = [pair for pair in groups if pair is not rest]
        tree = descend(first_of([(is_present(DESTINATION_PORT), rest[1])], otherwise))
    ranges = [
        (matches(DESTINATION_PORT, decimal_regex(group.spans)), on_match)
        for group, on_match in groups
        if group.size > MOST_COPIES
    ]
    if ranges:
        tree = descend(first_of(ranges, tree))
    single = {
        str(port): on_match
        for group, on_match in groups
        if group.size <= MOST_COPIES
        for first, last in group.spans
        for port in range(first, last + 1)
    }
    if single:
        tree = descend(exact_map(DESTINATION_PORT, single, tree))
    return tree


@lru_cache(maxsize=4096)
def decimal_regex(spans: tuple[tuple[int, int], ...]) -> str:
    """RE2 for the decimal numbers in `spans` and no others, without leading zeros."""
    return "|".join(piece for first, last in spans for piece in _pieces(first, last))


def _pieces(first: int, last: int) -> Iterable[str]:
    """Split into runs of one digit count that end in free digits: 995-2003 is 99[5-9], 1\\d{3}, 200[0-3]."""
    while first <= last:
        size = 1  # the widest aligned block of numbers with equal digit count that starts at `first`
        while first % (size * 10) == 0 and first and first + size * 10 - 1 <= last:
            size *= 10
        digit = first // size % 10
        # Run the digit above the free ones as far as it goes without a carry.
        run = min((last - first + 1) // size, 10 - digit)
        head = str(first // (size * 10)) if first >= size * 10 else ""
        free = len(str(size)) - 1
        span = str(digit) if run == 1 else f"[{digit}-{digit + run - 1}]"
        yield head + span + (f"[0-9]{{{free}}}" if free else "")
        first += run * size


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged
