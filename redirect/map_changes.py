"""The way from what the kernel's maps hold to what they should hold. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from ..policies.difference import other_values
from ..policies.identity import IPNetwork
from .meanwhile import meanwhile
from .plan import DatapathPlan, Effect, EndpointPolicies, Owner, PolicyKey
from .planner import can_own

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class MapDelta(Generic[K, V]):
    """What to write to one map and what to take out of it."""

    put: Mapping[K, V]
    gone: frozenset[K]

    def __len__(self) -> int:
        return len(self.put) + len(self.gone)


NO_CHANGE: MapDelta[Any, Any] = MapDelta(MappingProxyType({}), frozenset())


@dataclass(frozen=True, slots=True)
class MapChanges:
    """The way from what the maps hold to a plan. `meanwhile` are entries for the time in which the ipcache is changed
    already and the endpoints are not. `strays` are those that go of policies that no endpoint has: a change that failed
    half-way left them."""

    policy: MapDelta[PolicyKey, Effect]
    endpoints: MapDelta[int, EndpointPolicies]
    ipcache: MapDelta[IPNetwork, Owner]
    meanwhile: Mapping[PolicyKey, Effect] = field(default_factory=dict)
    strays: frozenset[PolicyKey] = frozenset()

    def __len__(self) -> int:
        return len(self.policy) + len(self.endpoints) + len(self.ipcache)

    def writes(self) -> Iterator[Write]:
        """The order that makes every moment safe: no packet meets half a policy, an identity that the policy before it
        does not know, or an endpoint that speaks already while those it speaks to do not know it."""
        if self.strays:  # they may take the room that the others need
            yield Write(Table.POLICY, MapDelta(MappingProxyType({}), self.strays))
        # New policies are not referred to before the endpoints move over; old ones go when nobody refers to them.
        yield Write(Table.POLICY, MapDelta({**self.policy.put, **self.meanwhile}, frozenset()))
        yield Write(Table.IPCACHE, self.ipcache)
        yield Write(Table.ENDPOINTS, self.endpoints)
        yield Write(
            Table.POLICY, MapDelta(MappingProxyType({}), (self.policy.gone - self.strays) | self.meanwhile.keys())
        )

    def most(self, current: DatapathPlan) -> Mapping[Table, int]:
        """How many entries each map has at most on the way, where the maps hold `current`: what is new comes before
        what goes."""
        policy = (self.policy.put.keys() | self.meanwhile.keys()) - current.policy.keys()
        return {
            Table.POLICY: len(current.policy) - len(self.strays) + len(policy),
            Table.IPCACHE: len(current.ipcache) + len(self.ipcache.put.keys() - current.ipcache.keys()),
            Table.ENDPOINTS: len(current.endpoints) + len(self.endpoints.put.keys() - current.endpoints.keys()),
        }


class Table(Enum):
    """The maps that a change writes, by the names that they have in the kernel."""

    POLICY = "policy"
    ENDPOINTS = "endpoints"
    IPCACHE = "ipcache"


@dataclass(frozen=True, slots=True)
class Write:
    """What to put into one of the maps, in this order, and then what to take out of it."""

    table: Table
    delta: MapDelta[Any, Any]


def diff(current: DatapathPlan, wanted: DatapathPlan) -> MapChanges:
    """What to do to get from one to the other."""
    before, after = current.policy, wanted.policy
    if current.numbered is not None and wanted.numbered is not None:
        before = _joined(other_values(current.numbered, wanted.numbered))
        after = _joined(other_values(wanted.numbered, current.numbered))
    endpoints = _delta(current.endpoints, wanted.endpoints)
    ipcache = _delta(current.ipcache, wanted.ipcache)
    policy = _delta(before, after)
    used = {number for each in current.endpoints.values() for number in (each.ingress, each.egress)}
    return MapChanges(
        policy=policy,
        # Those that are new come last.
        endpoints=replace(
            endpoints, put=dict(sorted(endpoints.put.items(), key=lambda it: it[0] not in current.endpoints))
        ),
        ipcache=ipcache,
        meanwhile=meanwhile(current, wanted, ipcache.put, ipcache.gone),
        strays=frozenset(key for key in policy.gone if key.policy not in used),
    )


def readdressed(
    before: Mapping[IPNetwork, int], after: Mapping[IPNetwork, int], networks: Iterable[IPNetwork]
) -> MapDelta[IPNetwork, Owner]:
    """From one ipcache to another that differs in some of `networks`, none of which is an endpoint's."""
    networks = [network for network in networks if can_own(network) and before.get(network) != after.get(network)]
    return MapDelta(
        put={network: Owner(after[network]) for network in networks if network in after},
        gone=frozenset(network for network in networks if network not in after),
    )


def _joined(parts: Iterable[Mapping[K, V]]) -> dict[K, V]:
    joined: dict[K, V] = {}
    for part in parts:
        joined |= part
    return joined


def _delta(current: Mapping[K, V], wanted: Mapping[K, V]) -> MapDelta[K, V]:
    return MapDelta(
        # Plans share the values that have not changed, and asking for identity first spares a slow comparison.
        put={key: value for key, value in wanted.items() if (old := current.get(key)) is not value and old != value},
        gone=frozenset(key for key in current if key not in wanted),
    )
