"""toFQDNs: which of the selectors a learned name fits, and so which identity its addresses have.

An address that DNS answers have shown gets its identity from the selectors that its names fit and from the prefix it
lies in, not from itself: another address for a name that is known, or another name for a pattern, changes the ipcache
and no policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from .dns_name import rule_matches
from .endpoint_policy import DnsRule
from .identity import IPNetwork, cidr_labels
from .labels import CIDR, FQDN, Label, Labels
from .longest_prefix import LongestPrefix
from .workload import IPAddress

_MOST_REMEMBERED = 65536


class FqdnSelectors:
    """All the toFQDNs selectors of a world. Answers are remembered."""

    def __init__(self, rules: Iterable[DnsRule]) -> None:
        self.rules = frozenset(rules)
        self._exact = {rule.match_name: rule for rule in self.rules if rule.match_name is not None}
        self._patterns = tuple(rule for rule in self.rules if rule.match_pattern is not None)
        self._known: dict[str, frozenset[DnsRule]] = {}

    def fitting(self, names: Iterable[str]) -> frozenset[DnsRule]:
        """The selectors that one of the names fits. Names are lower-case and without the final dot."""
        return frozenset[DnsRule]().union(*map(self._fitting, names))

    def expected(self) -> set[frozenset[DnsRule]]:
        """What most names to come will fit: for each selector an example's fitting."""
        return {self._fitting(_example(rule)) for rule in self.rules} - {frozenset()}

    def _fitting(self, name: str) -> frozenset[DnsRule]:
        if (found := self._known.get(name)) is None:
            exact = self._exact.get(name)
            found = frozenset(rule for rule in self._patterns if rule_matches(rule, name))
            found = found | {exact} if exact is not None else found
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[name] = found
        return found


def _example(rule: DnsRule) -> str:
    if rule.match_name is not None:
        return rule.match_name
    return (rule.match_pattern or "").replace("**", "*").replace("*", "x")


def fqdn_label(rule: DnsRule) -> Label:
    """`fqdn:api.example.com`, `fqdn:*.example.com`."""
    return Label(FQDN, rule.match_name or rule.match_pattern or "")


class Place(NamedTuple):
    """What the identity of a learned address stands for: the selectors that its names fit, and the longest prefix
    around it that a policy tells apart (or the world of its family)."""

    around: IPNetwork
    rules: frozenset[DnsRule]


def place_of(address: IPAddress, rules: frozenset[DnsRule], prefixes: LongestPrefix) -> Place:
    """The place of an address whose names fit `rules`. `prefixes` must hold every address."""
    around = prefixes.find(address)
    if around is None:
        raise LookupError(f"no prefix holds {address}")
    return Place(around, rules)


def learned_labels(place: Place) -> Labels:
    """The labels of a place's identity."""
    around = cidr_labels(place.around)
    if place.around.prefixlen == 0:
        around = tuple(label for label in around if label.source != CIDR)
    return tuple(sorted({*around, *map(fqdn_label, place.rules)}))


@dataclass(frozen=True, slots=True, eq=False)
class LearnedIdentities:
    """The identities of addresses that are known by name. `prefixes` are those of the policies and the worlds."""

    selectors: FqdnSelectors
    prefixes: LongestPrefix
    numbers: Mapping[Place, int]

    def number(self, address: IPAddress, rules: frozenset[DnsRule]) -> int | None:
        """The identity of an address whose names fit `rules`; None when there is none yet."""
        return self.numbers.get(place_of(address, rules, self.prefixes))

    def owners(self, fitting: Mapping[IPAddress, frozenset[DnsRule]]) -> dict[IPNetwork, int]:
        """The part of the ipcache for these addresses."""
        return {
            ip_network(address): self.numbers[place_of(address, rules, self.prefixes)]
            for address, rules in fitting.items()
        }
