"""How many entries a change needs in the kernel's maps, counted before anything is written, and what for. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..policies.endpoint_policy import EndpointPolicy, ResolvedRule
from .map_changes import Table, diff
from .plan import DatapathPlan
from .port_prefix import split

_AMPLE = 4
_MOST_PREFIXES = 30  # of a span of ports


@dataclass(frozen=True, slots=True)
class Need:
    """Entries by map: those that a change has there at most on its way, and how many there can be."""

    entries: Mapping[Table, int]
    room: Mapping[Table, int]

    @property
    def lacking(self) -> Table | None:
        """A map that has no room for the change."""
        return next((table for table, entries in self.entries.items() if entries > self.room[table]), None)


def need(current: DatapathPlan, wanted: DatapathPlan, room: Mapping[Table, int]) -> Need:
    """What it takes to get from one to the other."""
    return Need(diff(current, wanted).most(current), room)


def is_ample(
    current: DatapathPlan, policies: Sequence[EndpointPolicy], addresses: int, room: Mapping[Table, int]
) -> bool:
    """True where the maps hold many times what these endpoints and addresses can take, which takes no plan to know."""
    halves = {id(half): half for policy in policies for half in (policy.ingress, policy.egress)}
    entries = sum(
        (1 if rule.peers is None else len(rule.peers))
        * (1 if rule.ports is None else sum(1 if each.first == each.last else _MOST_PREFIXES for each in rule.ports))
        for half in halves.values()
        for rule in half.rules
    )
    taken = {
        Table.POLICY: len(current.policy) + entries + len(halves),
        Table.IPCACHE: len(current.ipcache) + addresses,
        Table.ENDPOINTS: len(current.endpoints) + len(policies),
    }
    return all(_AMPLE * entries <= room[table] for table, entries in taken.items())


def asked(policies: Iterable[EndpointPolicy]) -> Mapping[tuple[str, str, str], int]:
    """How many entries each document (kind, namespace, name) asks for at most in these policies; 0 where it is not in
    them. Endpoints with the very same policy share its entries, and those of several documents may be one entry."""
    found: Counter[tuple[str, str, str]] = Counter()
    halves = {id(half): half for policy in policies for half in (policy.ingress, policy.egress)}
    for half in halves.values():
        for rule in half.rules:
            origin = rule.origin
            peers = 1 if rule.peers is None else len(rule.peers)
            found[origin.kind, origin.namespace, origin.policy] += peers * _prefixes(rule)
    return found


def _prefixes(rule: ResolvedRule) -> int:
    return 1 if rule.ports is None else sum(1 for span in rule.ports for _ in split(span))
