"""Two ipcaches at once: for each prefix what the one and what the other says of it, under a number for the pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..policies.identity import IPNetwork


class TwoIpcaches:
    """`numbers` maps each prefix of either ipcache to the number of its pair of identities. Immutable."""

    def __init__(self, before: Mapping[IPNetwork, int], after: Mapping[IPNetwork, int]) -> None:
        self._before: dict[int, set[int]] = {}
        self._after: dict[int, set[int]] = {}
        self.numbers: dict[IPNetwork, int] = {}
        pairs: dict[tuple[int | None, int | None], int] = {}
        lengths = [_lengths(before), _lengths(after)]
        for network in before.keys() | after.keys():
            one, other = _identity(network, before, lengths[0]), _identity(network, after, lengths[1])
            number = self.numbers[network] = pairs.setdefault((one, other), len(pairs))
            if one is not None:
                self._before.setdefault(one, set()).add(number)
            if other is not None:
                self._after.setdefault(other, set()).add(number)

    def before(self, identities: Iterable[int]) -> frozenset[int]:
        """The pairs of which the first is one of these identities."""
        return frozenset[int]().union(*(self._before.get(each, ()) for each in identities))

    def after(self, identities: Iterable[int]) -> frozenset[int]:
        """The pairs of which the second is one of these identities."""
        return frozenset[int]().union(*(self._after.get(each, ()) for each in identities))


def _identity(network: IPNetwork, ipcache: Mapping[IPNetwork, int], lengths: Mapping[int, list[int]]) -> int | None:
    """Of the longest prefix that holds the whole network; None when none does."""
    for length in lengths[network.version]:
        if length <= network.prefixlen and (found := ipcache.get(network.supernet(new_prefix=length))) is not None:
            return found
    return None


def _lengths(ipcache: Iterable[IPNetwork]) -> dict[int, list[int]]:
    """By family, the lengths there are, the longest first."""
    found: dict[int, set[int]] = {4: set(), 6: set()}
    for network in ipcache:
        found[network.version].add(network.prefixlen)
    return {version: sorted(lengths, reverse=True) for version, lengths in found.items()}
