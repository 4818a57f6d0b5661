"""Policies that the kernel's maps have no room for: found by counting, so that they hold up no others.

Those that are new are looked at first, the one that asks for most before the others, and each gives way in steps: to
its last version in force, to itself without all that it allows, and at last to a denial of everything where it denies
something. Then each gets back as much as there is room for, the smallest first. That is tried again with every change.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from ...policies import Policy, PolicyKey, World
from ...policies.withheld import closed, shut
from ...redirect.map_changes import Table
from ...redirect.room import Need, asked
from .containment import StandIn

_LONGEST_LADDER = 3
_MOST_TRIALS = 64  # to give back what there is room for: meanwhile all other changes wait


@dataclass(frozen=True, slots=True)
class Counted:
    """A world, and what it needs in the kernel's maps."""

    world: World
    need: Need


Count: TypeAlias = Callable[[Sequence[Policy]], Awaitable[Counted]]


@dataclass(frozen=True, slots=True)
class Overfull:
    """One policy that there is no room for. `wants` are the entries of that map that it needs beside the `others`.
    `remembered` is its last good version, which may be what it says now."""

    policy: Policy
    table: Table
    wants: int
    others: int
    room: int
    stand_in: StandIn
    remembered: Policy | None

    @property
    def enforced(self) -> str:
        """ "older", "denied", or "closed" where others' allowances go with it."""
        if self.stand_in.older:
            return "older"
        return "denied" if self.stand_in.policy == shut(self.policy) else "closed"

    @property
    def consequence(self) -> str:
        """What is enforced now, as the end of a sentence."""
        return {
            "older": "its last good version stays enforced",
            "denied": "what only it allows is denied",
            "closed": "where it denies something, everything is denied",
        }[self.enforced]

    def to_json(self) -> dict[str, Any]:
        """For the local API. `wants`, `others` and `room` are entries of `map`."""
        return {
            "map": self.table.value,
            "wants": self.wants,
            "others": self.others,
            "room": self.room,
            "enforced": self.enforced,
        }

    def __str__(self) -> str:
        policy = self.policy
        return (
            f"{policy.source}:{policy.line}: policy {policy.key} wants {self.wants} entries of the BPF map "
            f"{self.table.value}, which holds {self.room} and needs {self.others} for all else (those in force "
            f"included, until they go): {self.consequence}; use fewer peers or port ranges"
        )


class Overflow:
    """Those of one node. `recall` knows the version of a policy that an earlier agent had in force last."""

    def __init__(self, recall: Callable[[Policy], Policy | None]) -> None:
        self._recall = recall
        self._in_force: Mapping[PolicyKey, Policy] | None = None  # None: not known, an earlier agent's
        self._held: dict[PolicyKey, Overfull] = {}
        self._tried: tuple[Counted, Sequence[Policy]] | None = None  # nothing more can be had of this

    @property
    def held(self) -> Mapping[PolicyKey, Overfull]:
        """By policy; those held back now."""
        return self._held

    @property
    def mere(self) -> frozenset[PolicyKey]:
        """Those of them that are only there to deny."""
        return frozenset(key for key, each in self._held.items() if not each.stand_in.older)

    def admitted(self, wanted: Iterable[Policy]) -> tuple[Policy, ...]:
        """The policies to enforce when these are wanted. Forgets those that are others now."""
        if not self._held:
            return tuple(wanted)
        listed = {policy.key: policy for policy in wanted}
        self._held = {key: each for key, each in self._held.items() if listed.get(key) == each.policy}
        return tuple(self._held[key].stand_in.policy if key in self._held else policy for key, policy in listed.items())

    def take(self, policies: Iterable[Policy]) -> None:
        """These are in force."""
        before, mere = self._in_force or {}, self.mere
        now = {policy.key: policy for policy in policies if policy.key not in mere}
        self._in_force = now | {key: before[key] for key in mere if key in before}

    async def fit(self, wanted: Sequence[Policy], counted: Counted, count: Count) -> Counted:
        """As much of `wanted` as there is room for, where `counted` is what is `admitted` of it. That itself where
        nothing helps, as where no policy is to blame."""
        lacks = counted.need.lacking is not None
        if (not lacks and not self._held) or self._has_tried(counted, wanted):
            return counted
        fitting = _Fitting(wanted, self._ladder, self._held.values(), counted, count)
        if lacks and not await fitting.make_room(each.key for each in wanted if self._good(each) != each):
            self._held, self._tried = {}, (counted, wanted)
            return counted
        self._held = {
            each.policy.key: Overfull(*each, remembered=self._good(each.policy)) for each in await fitting.settle()
        }
        self._tried = (fitting.counted, wanted)
        return fitting.counted

    def _has_tried(self, counted: Counted, wanted: Sequence[Policy]) -> bool:
        if self._tried is None:
            return False
        before, policies = self._tried
        return policies == wanted and before.need == counted.need and before.world.tells_the_same(counted.world)

    def _good(self, policy: Policy) -> Policy | None:
        """The version that was in force last."""
        known = self._in_force.get(policy.key) if self._in_force is not None else None
        return known or self._recall(policy)

    def _ladder(self, policy: Policy) -> Sequence[StandIn]:
        """What may stand in for a policy, the least loss first."""
        good = self._good(policy)
        older = [StandIn(good, older=True)] if good is not None and good != policy else []
        return [*older, *(StandIn(each, older=False) for each in dict.fromkeys((shut(policy), closed(policy))))]


class _Lowered(NamedTuple):
    """The fields of an Overfull."""

    policy: Policy
    table: Table
    wants: int
    others: int
    room: int
    stand_in: StandIn


class _Fitting:
    """One search. `counted` is what stands so far."""

    def __init__(
        self,
        wanted: Sequence[Policy],
        ladder: Callable[[Policy], Sequence[StandIn]],
        held: Iterable[Overfull],
        counted: Counted,
        count: Count,
    ) -> None:
        self.counted = counted
        self._wanted = {policy.key: policy for policy in wanted}
        self._ladder_of = ladder
        self._count = count
        self._ladders: dict[PolicyKey, Sequence[StandIn]] = {}
        self._steps: dict[PolicyKey, int] = {}  # down the ladder; those that are not here are whole
        self._told: dict[PolicyKey, tuple[Table, int, int, int]] = {}
        for each in held:
            key = each.policy.key
            steps = self._ladder(key)
            self._steps[key] = 1 + steps.index(each.stand_in) if each.stand_in in steps else len(steps)
            self._told[key] = (each.table, each.wants, each.others, each.room)

    async def make_room(self, new: Iterable[PolicyKey]) -> bool:
        """Those that are new give way first, then any that ask for something; false when nothing helps."""
        suspects = [*new]
        for _ in range(_LONGEST_LADDER + 1):
            if await self._lower(suspects):
                return True
            suspects = [key for key, weight in self._weights().items() if weight]
        return False

    async def _lower(self, suspects: Iterable[PolicyKey]) -> bool:
        """They give way one step, the heaviest first, until there is room; false when that was not enough."""
        waiting = {key for key in suspects if self._steps.get(key, 0) < len(self._ladder(key))}
        while (table := self.counted.need.lacking) is not None:
            if not waiting or table is Table.ENDPOINTS:
                return False
            need, weights = self.counted.need, self._weights()
            excess = need.entries[table] - need.room[table]
            for key in sorted(waiting, key=lambda key: (-weights[key], key)):
                if excess <= 0:
                    break
                excess -= weights[key]
                waiting.discard(key)
                self._steps[key] = self._steps.get(key, 0) + 1
                self._told.setdefault(key, (table, weights[key], need.entries[table] - weights[key], need.room[table]))
            self.counted = await self._count(self._chosen(self._steps))
        return True

    async def settle(self) -> list[_Lowered]:
        """Each gets back what there is room for; what is left."""
        for key in sorted(self._steps, key=lambda key: (self._told[key][1], key))[:_MOST_TRIALS]:
            for step in range(self._steps[key]):
                tried = await self._count(self._chosen({**self._steps, key: step}))
                if (table := tried.need.lacking) is None:
                    self.counted, self._steps[key] = tried, step
                    break
                if step == 0:
                    wants, others = tried.need.entries[table], self.counted.need.entries[table]
                    self._told[key] = (table, wants - others, others, tried.need.room[table])
        return [
            _Lowered(self._wanted[key], *self._told[key], stand_in=self._ladder(key)[step - 1])
            for key, step in self._steps.items()
            if step
        ]

    def _chosen(self, steps: Mapping[PolicyKey, int]) -> list[Policy]:
        return [
            self._ladder(key)[step - 1].policy if (step := steps.get(key, 0)) else policy
            for key, policy in self._wanted.items()
        ]

    def _ladder(self, key: PolicyKey) -> Sequence[StandIn]:
        if key not in self._ladders:
            self._ladders[key] = self._ladder_of(self._wanted[key])
        return self._ladders[key]

    def _weights(self) -> Mapping[PolicyKey, int]:
        """How many entries each policy, as it stands, asks for at most in the map that has no room."""
        world, table = self.counted.world, self.counted.need.lacking
        if table is Table.POLICY:
            subjects = [*(each for each in world.endpoints if each.local), *([world.host] if world.host else [])]
            found = asked(world.policy_of(each) for each in subjects)
            return {key: found[key.kind, key.namespace, key.name] for key in self._wanted}
        chosen = {policy.key: policy.named for policy in self._chosen(self._steps)}
        return {key: len(each.networks) + len(each.fqdns) for key, each in chosen.items()}
