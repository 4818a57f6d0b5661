"""What the policies still in force say of identities that come with a change, until those that know them are. Pure.

The maps are written one after the other: an address has its new identity while endpoints still have policies that were
made without it, and whom no entry names is judged as anyone. So each of those policies says of a new identity, for
that moment, what it says of who had the address before; of one that nobody could talk to, that nobody can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..policies.identity import IPNetwork
from ..policies.longest_prefix import LongestPrefix
from .plan import DENY, DatapathPlan, Effect, Owner, PolicyKey
from .port_prefix import EVERYTHING, PortPrefix

_NOBODY = 0


def meanwhile(
    current: DatapathPlan, wanted: DatapathPlan, put: Mapping[IPNetwork, Owner], gone: Iterable[IPNetwork]
) -> dict[PolicyKey, Effect]:
    """Entries to add to policies of `current` before its ipcache changes, by `put` and `gone`, to that of `wanted`."""
    replaced = {
        number
        for ifindex, before in current.endpoints.items()
        if (after := wanted.endpoints.get(ifindex)) is not None
        for number, other in ((before.ingress, after.ingress), (before.egress, after.egress))
        if number != other
    }
    new = {owner.identity for owner in put.values()}
    if not replaced or new <= {_NOBODY} or not (new := new - _identities(current.ipcache)):
        return {}
    heirs = _heirs(current.ipcache, wanted.ipcache, new, put, gone)
    found: dict[PolicyKey, Effect] = {}
    for number, said in _by_identity(current, replaced).items():
        for identity, forebears in heirs.items():
            if identity not in said:
                ports = _agreed([said.get(each, {}) if each else {EVERYTHING: DENY} for each in forebears])
                found |= {PolicyKey(number, identity, each): effect for each, effect in ports.items()}
    return found


def _identities(ipcache: Mapping[IPNetwork, Owner]) -> set[int]:
    return {_NOBODY, *(owner.identity for owner in ipcache.values())}


def _heirs(
    before: Mapping[IPNetwork, Owner],
    after: Mapping[IPNetwork, Owner],
    new: set[int],
    put: Mapping[IPNetwork, Owner],
    gone: Iterable[IPNetwork],
) -> dict[int, set[int]]:
    """The new identities, and which each has addresses of; 0 is nobody's."""
    found: dict[int, set[int]] = {}
    around, then = LongestPrefix(before), LongestPrefix(after)
    for network, owner in put.items():
        if owner.identity in new:
            held = around.around(network)
            found.setdefault(owner.identity, set()).add(before[held].identity if held is not None else _NOBODY)
    for network in gone:
        heir = then.around(network)
        if heir is not None and after[heir].identity in new:
            found.setdefault(after[heir].identity, set()).add(before[network].identity)
    return found


def _by_identity(current: DatapathPlan, numbers: set[int]) -> dict[int, dict[int, dict[PortPrefix, Effect]]]:
    """What these policies say, by number and identity."""
    found: dict[int, dict[int, dict[PortPrefix, Effect]]] = {number: {} for number in numbers}
    known = current.numbered
    for entries in [current.policy] if known is None else [known[number] for number in numbers if number in known]:
        for (number, identity, ports), effect in entries.items():
            if number in numbers:
                found[number].setdefault(identity, {})[ports] = effect
    return found


def _agreed(said: list[dict[PortPrefix, Effect]]) -> dict[PortPrefix, Effect]:
    """Who has addresses of two that are not judged alike is nobody's friend for that moment."""
    return said[0] if all(each == said[0] for each in said) else {EVERYTHING: DENY}
