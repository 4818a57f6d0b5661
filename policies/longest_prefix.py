"""The longest prefix that holds an address, without trying every length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network

from .identity import IPNetwork
from .workload import IPAddress


class LongestPrefix:
    """Looks addresses up in a set of prefixes of both families."""

    def __init__(self, prefixes: Mapping[IPNetwork, object]) -> None:
        """The mapping is kept, not copied: it must not change."""
        self._prefixes = prefixes
        self._lengths = _lengths(prefixes)

    def find(self, address: IPAddress) -> IPNetwork | None:
        """The longest of the prefixes that holds the address; None when none does."""
        for length in self._lengths[address.version]:
            network = ip_network((address, length), strict=False)
            if network in self._prefixes:
                return network
        return None

    def around(self, network: IPNetwork) -> IPNetwork | None:
        """The longest of the prefixes that holds all of `network`, which may be itself; None when none does."""
        for length in self._lengths[network.version]:
            if length <= network.prefixlen:
                found = ip_network((network.network_address, length), strict=False)
                if found in self._prefixes:
                    return found
        return None


def _lengths(prefixes: Iterable[IPNetwork]) -> dict[int, list[int]]:
    """By family, the lengths there are, the longest first."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for prefix in prefixes:
        found[prefix.version].add(prefix.prefixlen)
    return {version: sorted(lengths, reverse=True) for version, lengths in found.items()}
