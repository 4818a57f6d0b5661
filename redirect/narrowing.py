"""What of a plan the kernel can hold before Envoy knows of it. Pure.

Envoy judges by the policies that it confirmed last, whatever the kernel hands to it. So a connection may be handed to
it only where the maps did so before, and then it is judged as before; where the plan hands over what they let pass, or
refused, it is dropped. All else is as in the plan: what it denies is denied, what it allows without Envoy is allowed.

Each end of a connection has a policy of its own, and Envoy judges by both. Where the plan lets one of them pass what it
refused, the other may not hand that over: Envoy's old policy of it and the kernel's new one of the first would together
allow what neither the old policies do nor the new ones. The same goes for identities that the maps did not know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from ..policies.endpoint_policy import Direction
from .plan import ALLOW, ANYONE, DENY, HOST, HOST_ENDPOINT, DatapathPlan, Effect, EndpointPolicies, PolicyKey, Verdict
from .planner import digest_of, number_of
from .port_prefix import PortPrefix

_DROP = Effect(Verdict.REDIRECT)
_Table = Mapping[PortPrefix, Effect]
_NO_TABLE: _Table = MappingProxyType({})


def narrowed(held: DatapathPlan, wanted: DatapathPlan, envoy: Collection[int]) -> DatapathPlan:
    """`wanted` less what Envoy would have to know for it, where the maps hold `held`. `envoy` are its listeners' ports.

    What it returned as `held`, and the same `wanted`, give what judges alike.
    """
    return _Narrowing(held, wanted, envoy).plan()


class _Policy:
    """What one direction of an endpoint says, by identity and ports."""

    def __init__(self, said: Mapping[int, _Table], otherwise: Effect = DENY) -> None:
        self.said = said
        self._otherwise = otherwise

    def found(self, who: int, ports: PortPrefix) -> Effect | None:
        """What it says to one identity at these ports, as far as no longer prefix says otherwise; None for nothing."""
        own, anyones = _longest(self.said.get(who, _NO_TABLE), ports), self._anyones(ports)
        return anyones if own is None else own if anyones is None else own.combine(anyones)

    def effect(self, who: int, ports: PortPrefix) -> Effect:
        """The same, as the kernel takes it."""
        return self.found(who, ports) or self._otherwise

    def ports(self, who: int) -> Iterable[PortPrefix]:
        """Where it may say something else to this identity."""
        return {*self.said.get(who, _NO_TABLE), *self.said.get(ANYONE, _NO_TABLE)}

    def _anyones(self, ports: PortPrefix) -> Effect | None:
        return _longest(self.said.get(ANYONE, _NO_TABLE), ports)


_NOBODYS = _Policy({}, ALLOW)  # of an end that is no endpoint
_MUTE = _Policy({})  # of an endpoint that is new


def _longest(table: _Table, ports: PortPrefix) -> Effect | None:
    for each in (ports, *ports.covering()):
        if each in table:
            return table[each]
    return None


class _Narrowing:
    def __init__(self, held: DatapathPlan, wanted: DatapathPlan, envoy: Collection[int]) -> None:
        self._held, self._wanted, self._envoy = held, wanted, envoy
        self._before, self._after = _by_number(held), _by_number(wanted)
        self._identities = _endpoints(held), _endpoints(wanted)
        known = {owner.identity for owner in held.ipcache.values()}
        self._strangers = {owner.identity for owner in wanted.ipcache.values()} - known
        self._changed = {direction: self._changed_ends(direction) for direction in Direction}
        self._made: dict[tuple[int, int, int, Direction], Mapping[int, _Table]] = {}

    def plan(self) -> DatapathPlan:
        numbered = dict(self._wanted.numbered if self._wanted.numbered is not None else _numbered(self._wanted))
        numbers: dict[bytes, int] = {}

        def number(ifindex: int, direction: Direction) -> int:
            wanted = self._wanted.endpoints[ifindex].number(direction)
            said = self._narrow(ifindex, direction)
            if said is self._after[wanted].said:
                return wanted
            entries = {(who, ports): effect for who, table in said.items() for ports, effect in table.items()}
            digest = digest_of(entries)
            if digest not in numbers:
                numbers[digest] = new = number_of(digest, numbered)
                numbered[new] = {PolicyKey(new, *key): effect for key, effect in entries.items()}
            return numbers[digest]

        endpoints = {
            ifindex: EndpointPolicies(number(ifindex, Direction.INGRESS), number(ifindex, Direction.EGRESS))
            for ifindex in self._wanted.endpoints
        }
        used = {each.number(direction) for each in endpoints.values() for direction in Direction}
        kept = {number: entries for number, entries in numbered.items() if number in used}
        return replace(
            self._wanted,
            policy=MappingProxyType({key: effect for entries in kept.values() for key, effect in entries.items()}),
            endpoints=MappingProxyType(endpoints),
            numbered=MappingProxyType(kept),
        )

    def _changed_ends(self, direction: Direction) -> dict[int, list[tuple[_Policy, _Policy]]]:
        """What the ends' policies of this direction were and are, where they differ, by identity."""
        before, after = self._identities
        found: dict[int, dict[tuple[int, int], tuple[_Policy, _Policy]]] = {}
        for ifindex, identity in after.items():
            old, new = self._numbers(ifindex, direction)
            if old != new:
                found.setdefault(identity, {})[old, new] = (self._was(ifindex, old), self._after[new])
        for ifindex, identity in before.items():
            if ifindex not in after or not self._stays(ifindex):
                old = self._held.endpoints[ifindex].number(direction)
                found.setdefault(identity, {})[old, 0] = (self._before[old], _NOBODYS)
        return {identity: list(pairs.values()) for identity, pairs in found.items()}

    def _was(self, ifindex: int, number: int) -> _Policy:
        """The policy before, 0 for one that the maps do not have. The node without one is let be."""
        return self._before[number] if number else _NOBODYS if ifindex == HOST_ENDPOINT else _MUTE

    def _stays(self, ifindex: int) -> bool:
        before, after = self._identities
        return before.get(ifindex) == after.get(ifindex) is not None

    def _numbers(self, ifindex: int, direction: Direction) -> tuple[int, int]:
        """Of the policies of the same endpoint before and after; 0 is none."""
        old, new = self._held.endpoints.get(ifindex), self._wanted.endpoints[ifindex]
        return (old.number(direction) if old is not None and self._stays(ifindex) else 0), new.number(direction)

    def _narrow(self, ifindex: int, direction: Direction) -> Mapping[int, _Table]:
        """What an endpoint's policy may say meanwhile."""
        old, new = self._numbers(ifindex, direction)
        after = self._after[new]
        if not _hands_over(after.said, self._envoy):
            return after.said
        identity = self._identities[1][ifindex]
        key = (old, new, identity, direction)
        if key not in self._made:
            other_end = Direction.EGRESS if direction is Direction.INGRESS else Direction.INGRESS
            was = self._was(ifindex, old)
            peers = self._strangers | self._changed[other_end].keys()
            if old == new and not peers:
                self._made[key] = after.said
            elif not _hands_over(was.said, self._envoy):
                self._made[key] = {who: self._closed(table) for who, table in after.said.items()}
            else:
                whos = {*peers, *was.said, *after.said, ANYONE}
                anyones = self._anyones_table(was, after)
                tables = {who: self._table(was, after, who, identity, other_end) for who in whos - {ANYONE}}
                self._made[key] = {**tables, ANYONE: anyones}
        return self._made[key]

    def _closed(self, table: _Table) -> _Table:
        return {ports: _DROP if self._is_envoys(effect) else effect for ports, effect in table.items()}

    def _is_envoys(self, effect: Effect) -> bool:
        return effect.verdict is Verdict.REDIRECT and effect.proxy_port in self._envoy

    def _anyones_table(self, was: _Policy, after: _Policy) -> _Table:
        """For all whom nothing names. What is dropped by saying nothing is not said: it would count for the others."""
        said: dict[PortPrefix, Effect] = {}
        for ports in sorted({*was.ports(ANYONE), *after.ports(ANYONE)}):
            effect = after.found(ANYONE, ports)
            if effect is None:
                continue
            if self._is_envoys(effect) and was.effect(ANYONE, ports) != effect:
                effect = _DROP
            covering = next((said[each] for each in ports.covering() if each in said), None)
            if effect != covering and (covering is not None or effect == ALLOW or effect.proxy_port):
                said[ports] = effect
        return said

    def _table(self, was: _Policy, after: _Policy, who: int, identity: int, other_end: Direction) -> _Table:
        """For one identity, whatever `_anyones_table` says."""
        others = self._changed[other_end].get(who, [])
        places = {*was.ports(who), *after.ports(who)}
        for pair in others:
            for each in pair:
                places.update(each.ports(identity))
        said: dict[PortPrefix, Effect] = {}
        for ports in sorted(places):
            effect = after.effect(who, ports)
            if self._is_envoys(effect) and (
                who in self._strangers
                or was.effect(who, ports) != effect
                or any(
                    new.effect(identity, ports) == ALLOW and old.effect(identity, ports) not in (ALLOW, effect)
                    for old, new in others
                )
            ):
                effect = _DROP
            if effect != next((said[each] for each in ports.covering() if each in said), None):
                said[ports] = effect
        return said


def _hands_over(said: Mapping[int, _Table], envoy: Collection[int]) -> bool:
    return any(
        effect.verdict is Verdict.REDIRECT and effect.proxy_port in envoy
        for table in said.values()
        for effect in table.values()
    )


def _endpoints(plan: DatapathPlan) -> dict[int, int]:
    """Identities by interface."""
    found = {owner.ifindex: owner.identity for owner in plan.ipcache.values() if owner.ifindex}
    return {ifindex: HOST if ifindex == HOST_ENDPOINT else found.get(ifindex, 0) for ifindex in plan.endpoints}


def _by_number(plan: DatapathPlan) -> dict[int, _Policy]:
    """The policies by number, with those that say nothing."""
    found: dict[int, dict[int, dict[PortPrefix, Effect]]] = {
        each.number(direction): {} for each in plan.endpoints.values() for direction in Direction
    }
    for (number, who, ports), effect in plan.policy.items():
        found.setdefault(number, {}).setdefault(who, {})[ports] = effect
    return {number: _Policy(said) for number, said in found.items()}


def _numbered(plan: DatapathPlan) -> dict[int, dict[PolicyKey, Effect]]:
    found: dict[int, dict[PolicyKey, Effect]] = {}
    for key, effect in plan.policy.items():
        found.setdefault(key.policy, {})[key] = effect
    return found
