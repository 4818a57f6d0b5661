"""Peer addresses as a matcher: the ipcache's prefixes, grouped by what is said about their identities.

The longest prefix that holds an address gives its identity, and only that identity counts. A prefix whose verdict is
that of the next shorter one need not be sent, so a rule for three pods costs three entries however big the ipcache is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..policies.identity import IPNetwork
from .matcher import Input, OnMatch, address_trie, descend

_ROOT = -1  # no prefix at all


class PrefixIndex:
    """One address family of the ipcache, with each prefix tied to the next shorter one that holds it. Immutable."""

    def __init__(self, ipcache: Mapping[IPNetwork, int], version: int) -> None:
        """`version` 4 or 6 picks the family; identities are the ipcache's values."""
        found = sorted(
            (int(network.network_address), network.prefixlen, network)
            for network in ipcache
            if network.version == version
        )
        self._networks = [network for _, _, network in found]
        self._identities = [ipcache[network] for network in self._networks]
        self._parents: list[int] = []
        self._children: dict[int, list[int]] = {}
        self._by_identity: dict[int, list[int]] = {}
        bits = 32 if version == 4 else 128
        holding: list[tuple[int, int]] = []  # (last address, index) of the prefixes around the current one
        for index, (address, length, _) in enumerate(found):
            while holding and holding[-1][0] < address:
                holding.pop()
            parent = holding[-1][1] if holding else _ROOT
            self._parents.append(parent)
            self._children.setdefault(parent, []).append(index)
            self._by_identity.setdefault(self._identities[index], []).append(index)
            holding.append((address | (1 << bits - length) - 1, index))

    def entries(
        self, special: Iterable[int], verdict: Callable[[int | None], OnMatch], unknown: OnMatch
    ) -> dict[OnMatch, list[IPNetwork]]:
        """The prefixes to send, by verdict: those that differ from the next shorter prefix.

        `special` are the identities whose verdict may differ from that of all others, which `verdict(None)` gives;
        an address that no prefix holds has the verdict `unknown`.
        """
        by_identity = {identity: verdict(identity) for identity in special if identity in self._by_identity}
        ordinary = verdict(None)
        picked = {index for identity in by_identity for index in self._by_identity[identity]}
        candidates = picked.union(*(self._children.get(index, ()) for index in picked))
        candidates.update(self._children.get(_ROOT, ()))
        differing: dict[OnMatch, list[IPNetwork]] = {}
        for index in sorted(candidates):
            own = by_identity.get(self._identities[index], ordinary)
            parent = self._parents[index]
            around = unknown if parent == _ROOT else by_identity.get(self._identities[parent], ordinary)
            if own is not around and own != around:
                differing.setdefault(own, []).append(self._networks[index])
        return differing


def peer_tree(
    reads: Input,
    index: PrefixIndex,
    special: Iterable[int],
    verdict: Callable[[int | None], OnMatch],
    unknown: OnMatch,
) -> OnMatch:
    """The tree that judges the address `reads` gives; a miss inside a verdict's own tree ends at `unknown`."""
    entries = index.entries(special, verdict, unknown)
    if not entries:
        return unknown
    return descend(address_trie(reads, [(networks, on_match) for on_match, networks in entries.items()], unknown))
