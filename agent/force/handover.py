"""Which connections that proxies carry are over, because another identity has come to one of their ends. No I/O.

An address may change hands (a pod's), or be spoken of otherwise (outside: policies name other prefixes, a DNS answer
shows another name). What goes on all the same is remembered with the identities it was made with, for it is judged by
those as long as it lives. What an agent remembers ends with it; the kernel's map of connections, which does not, tells
the next one who made them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from ipaddress import ip_network

from ...policies import World
from ...policies.changed_ends import ChangedEnds, Ends, in_other_hands
from ...policies.identity import IPNetwork, Reserved
from ...policies.workload import IPAddress
from ...redirect.plan import DatapathPlan
from ...redirect.proxy_sockets import Carried


class Handover:
    """Tell it what the kernel's maps hold before every change of them (`begins`), and after it ask what is over."""

    def __init__(self) -> None:
        self._held: list[DatapathPlan] = []  # several when a change failed half-way: it may have been written in part
        self._made: dict[Carried, frozenset[Ends]] = {}  # the identities with which it may have been made

    def recall(self, made: Mapping[Carried, Ends], held: DatapathPlan) -> None:
        """With which identities connections were made that an earlier agent has let go on, or had no time to end.
        Whoever came with the node's address, as the maps hold it, was given it on the way."""
        identity = _identities(held)
        for each, (client, server) in made.items():
            if identity(each.client) == Reserved.HOST:
                client = Reserved.HOST
            self._made[each] = self._made.get(each, frozenset()) | {(client, server)}

    def begins(self, held: DatapathPlan) -> None:
        """The maps held this, and are about to change."""
        if not any(held is each for each in self._held):
            self._held.append(held)

    def settles(self, plan: DatapathPlan) -> bool:
        """True when the change that began has given nobody another identity, now that the maps hold `plan`: it is done
        with. Else `over` has to be asked."""
        if self._made or any(held.ipcache != plan.ipcache for held in self._held):
            return False
        self._held.clear()
        return True

    def over(
        self, carried: Iterable[Carried], before: World | None, after: World, plan: DatapathPlan
    ) -> tuple[Carried, ...]:
        """Those of the connections that must not go on, now that the maps hold `plan`.

        `carried` are all that live, listed when the maps held it already. `before` is the world that was in force.
        """
        touches = _touching(prefix for held in self._held for prefix in _changed(held, plan))
        ways = [_identities(held) for held in self._held]
        identity = _identities(plan)
        ends = ChangedEnds(before, after)
        made: dict[Carried, frozenset[Ends]] = {}
        over = []
        for each in carried:
            known = self._made.get(each, frozenset())
            if not known and not touches(each.client) and not touches(each.server):
                continue
            now = (identity(each.client), identity(each.server))
            possible = known | {(way(each.client), way(each.server)) for way in ways}
            if possible <= {now}:
                continue
            made[each] = possible | {now}  # it may be a moment old
            if not all(_goes_on(ends, each, made_with, now) for made_with in possible):
                over.append(each)  # and stays remembered until it is gone
        self._made = made
        self._held.clear()
        return tuple(over)


def _goes_on(ends: ChangedEnds, connection: Carried, made: Ends, now: Ends) -> bool:
    if not connection.accepted:  # what goes to the server has been judged already
        return not in_other_hands(made, now)
    return ends.goes_on(made, now, connection.client, connection.server, connection.server_port)


def _changed(before: DatapathPlan, after: DatapathPlan) -> Iterable[IPNetwork]:
    """The prefixes that are another's."""
    if before.ipcache is after.ipcache:
        return
    for prefix, owner in before.ipcache.items():
        found = after.ipcache.get(prefix)
        if found is not owner and (found is None or found.identity != owner.identity):
            yield prefix
    for prefix in after.ipcache:
        if prefix not in before.ipcache:
            yield prefix


def _touching(prefixes: Iterable[IPNetwork]) -> Callable[[IPAddress], bool]:
    """Whether an address is in one of them."""
    by_length: dict[tuple[int, int], set[IPNetwork]] = {}
    for prefix in prefixes:
        by_length.setdefault((prefix.version, prefix.prefixlen), set()).add(prefix)

    @cache
    def touches(address: IPAddress) -> bool:
        return any(
            version == address.version and ip_network((address, length), strict=False) in held
            for (version, length), held in by_length.items()
        )

    return touches


def _identities(plan: DatapathPlan) -> Callable[[IPAddress], int]:
    @cache
    def identity(address: IPAddress) -> int:
        owner = plan.owner(address)
        return owner.identity if owner is not None else 0

    return identity
