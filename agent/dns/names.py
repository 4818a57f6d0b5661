"""Which addresses DNS answers have shown for which names, for how long, and through whom. Pure: time is an argument.

Each client has a bounded memory of its own, so that none can make the node forget what another has learned; for the
policies all of them count together.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from ...policies.workload import IPAddress


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds and numbers.

    An address is allowed for its TTL, but at least `shortest_ttl`: clients connect to what they were told a while ago.
    When its time is over and it is in use, it stays for `retry` seconds more, and again.
    """

    shortest_ttl: float = 60.0
    longest_ttl: float = 86400.0
    retry: float = 10.0
    addresses_of_name: int = 1000
    addresses_of_client: int = 20000
    addresses: int = 250000


class Learned(NamedTuple):
    """A client was told that `name` has `address`."""

    client: str
    name: str
    address: IPAddress


class NameCache:
    """What was learned. Methods return the addresses whose set of names is another one now."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self.bounds = bounds or Bounds()
        self._expires: dict[Learned, int] = {}  # whole seconds
        self._clients: dict[str, dict[str, set[IPAddress]]] = {}  # the same by client and name
        self._counts: Counter[str] = Counter()  # by client
        self._names: dict[IPAddress, Counter[str]] = {}  # how many clients know it by that name
        self._calendar = _Calendar()
        self._touched: set[Learned] = set()

    def __len__(self) -> int:
        return len(self._expires)

    def learn(
        self, client: str, name: str, addresses: Iterable[IPAddress], ttl: float, now: float
    ) -> frozenset[IPAddress]:
        """An answer with `addresses` for `name` (lower-case, no final dot), to be trusted for `ttl` seconds.

        Addresses that no policy may open are left out. Over a bound, what would expire first goes first.
        """
        expires = now + min(max(ttl, self.bounds.shortest_ttl), self.bounds.longest_ttl)
        changed: set[IPAddress] = set()
        for address in addresses:
            if may_be_opened(address):
                changed |= self._learn(Learned(client, name, address), ceil(expires))
        return frozenset(changed)

    def restore(self, learned: Learned, expires: float) -> None:
        """What an earlier agent had learned, also when its time is over: it may be in use."""
        if may_be_opened(learned.address):
            self._learn(learned, ceil(expires))

    def names_of(self, address: IPAddress) -> frozenset[str]:
        """Its names."""
        return frozenset(self._names.get(address, ()))

    def by_name(self) -> dict[str, frozenset[IPAddress]]:
        """Every name with its addresses."""
        found: defaultdict[str, set[IPAddress]] = defaultdict(set)
        for address, names in self._names.items():
            for name in names:
                found[name].add(address)
        return {name: frozenset(addresses) for name, addresses in found.items()}

    def entries(self) -> Iterator[tuple[Learned, float]]:
        """Everything, with its time of expiry."""
        yield from self._expires.items()

    def touched(self) -> list[tuple[Learned, float | None]]:
        """What was learned, learned again or forgotten since the last call, with its time of expiry."""
        touched, self._touched = self._touched, set()
        return [(learned, self._expires.get(learned)) for learned in touched]

    def retouch(self, learned: Iterable[Learned]) -> None:
        """Has the next `touched` name these again."""
        self._touched.update(learned)

    def next_expiry(self) -> float | None:
        """When something expires next."""
        return self._calendar.first()

    def overdue(self, now: float) -> frozenset[IPAddress]:
        """Addresses with a name that has expired."""
        return frozenset(learned.address for learned in self._calendar.until(now))

    def expire(self, now: float, busy: Set[IPAddress]) -> frozenset[IPAddress]:
        """Forgets what has expired, but for the addresses in use."""
        changed: set[IPAddress] = set()
        for learned in self._calendar.until(now):
            if learned.address in busy:
                self._put_off(learned, ceil(now + self.bounds.retry))
            else:
                changed |= self._forget(learned)
        return frozenset(changed)

    def _learn(self, learned: Learned, expires: int) -> set[IPAddress]:
        if learned in self._expires:
            self._put_off(learned, max(expires, self._expires[learned]))
            return set()
        changed = self._make_room(learned)
        if len(self._expires) >= self.bounds.addresses:
            return changed
        client, name, address = learned
        self._expires[learned] = expires
        self._calendar.add(learned, expires)
        self._touched.add(learned)
        self._clients.setdefault(client, {}).setdefault(name, set()).add(address)
        self._counts[client] += 1
        names = self._names.setdefault(address, Counter())
        names[name] += 1
        return changed | {address} if names[name] == 1 else changed

    def _put_off(self, learned: Learned, expires: int) -> None:
        if expires == self._expires[learned]:
            return
        self._touched.add(learned)
        self._calendar.remove(learned, self._expires[learned])
        self._expires[learned] = expires
        self._calendar.add(learned, expires)

    def _make_room(self, learned: Learned) -> set[IPAddress]:
        """For one more of its client and name. A client loses a tenth at once: finding it is a look at everything."""
        client, name, _ = learned
        of_client = self._clients.get(client, {})
        leaving: list[Learned] = []
        if len(of_client.get(name, ())) >= self.bounds.addresses_of_name:
            leaving = self._first([(name, of_client[name])], client, 1)
        elif self._counts[client] >= self.bounds.addresses_of_client:
            leaving = self._first(of_client.items(), client, self._counts[client] // 10 + 1)
        return {address for each in leaving for address in self._forget(each)}

    def _first(self, names: Iterable[tuple[str, set[IPAddress]]], client: str, number: int) -> list[Learned]:
        """Those that would expire first."""
        everything = [Learned(client, name, address) for name, addresses in names for address in addresses]
        return heapq.nsmallest(number, everything, key=self._expires.__getitem__)

    def _forget(self, learned: Learned) -> set[IPAddress]:
        client, name, address = learned
        self._touched.add(learned)
        self._calendar.remove(learned, self._expires.pop(learned))
        self._counts[client] -= 1
        names = self._clients[client]
        names[name].discard(address)
        if not names[name]:
            del names[name]
        if not names:
            del self._clients[client], self._counts[client]
        clients = self._names[address]
        clients[name] -= 1
        if clients[name]:
            return set()
        del clients[name]
        if not clients:
            del self._names[address]
        return {address}


class _Calendar:
    """What is due in which second."""

    def __init__(self) -> None:
        self._due: dict[int, set[Learned]] = {}
        self._order: list[int] = []  # a heap of those seconds, and of some in which nothing is due any more
        self._queued: set[int] = set()  # what is in it

    def add(self, learned: Learned, second: int) -> None:
        self._due.setdefault(second, set()).add(learned)
        if second not in self._queued:
            self._queued.add(second)
            heapq.heappush(self._order, second)

    def remove(self, learned: Learned, second: int) -> None:
        due = self._due[second]
        due.remove(learned)
        if not due:
            del self._due[second]

    def first(self) -> int | None:
        while self._order and self._order[0] not in self._due:
            self._queued.remove(heapq.heappop(self._order))
        return self._order[0] if self._order else None

    def until(self, now: float) -> list[Learned]:
        return [learned for second, due in self._due.items() if second <= now for learned in due]


def may_be_opened(address: IPAddress) -> bool:
    """False for addresses that mean this node, this link or many hosts, whatever a DNS answer says."""
    if address.version == 6 and address.ipv4_mapped is not None:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_link_local or address.is_multicast)
