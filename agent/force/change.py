"""A change of the node's policies, from what is wanted to what is in force, whatever Envoy refuses of it, and whatever
the kernel has no room for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from ...policies import Policy, PolicyKey, World
from ...redirect.room import Need
from ..errors import StateError
from ..refusal.containment import Containment, Refusal
from ..refusal.culprits import InterruptedSearchError, Search
from ..refusal.overfull import Counted, Overflow, Overfull
from .applied import Applied

WorldOf: TypeAlias = Callable[[Sequence[Policy]], World]

log = logging.getLogger("lockgate.agent")


class Applies(Protocol):
    """What brings a world into force; `Applier` is the one for the agent's node, `RemoteApplier` that for another."""

    async def apply(self, world: World) -> Applied: ...
    async def offer(self, world: World) -> Applied: ...
    def told(self, world: World, resources: Collection[str] = ...) -> Set[PolicyKey]: ...
    async def need(self, world: World) -> Need: ...


class Remembers(Protocol):
    """What an earlier agent's Envoy took last; `LastGood` is what does."""

    def policies(self, source: str) -> tuple[Policy, ...]: ...


@dataclass(frozen=True, slots=True)
class Changed:
    """What came of a change: the world that was applied last, and how that went."""

    world: World
    applied: Applied


class ChangeMaker:
    """Applies one change after the other; the caller never starts two at once. `node` is the remote node that the
    Envoy is of."""

    def __init__(self, applier: Applies, memory: Remembers, node: str = "") -> None:
        self._applier = applier
        self._memory = memory
        self._node = node
        self._whose = f" of remote node {node}" if node else ""
        self._containment = Containment()
        self._overflow = Overflow(self._remembered)
        self._recalled: dict[str, Mapping[PolicyKey, Policy]] = {}  # of one look, by source
        self._strange = False  # Envoy may be another one than what was taken, or is remembered, tells of
        self.searches = 0  # how often Envoy had to be asked who is to blame

    @property
    def refusals(self) -> Mapping[PolicyKey, Refusal]:
        """The policies that Envoy refuses."""
        return self._containment.refusals

    @property
    def overfull(self) -> Mapping[PolicyKey, Overfull]:
        """The policies that the kernel has no room for."""
        return self._overflow.held

    def distrust(self) -> None:
        """Envoy refuses what it had taken: it is another one now, and any policy may be to blame."""
        self._containment.take((), frozenset)
        self._strange = True

    def forgive(self) -> None:
        """Envoy is another one now, and may take what the one before refused."""
        self._containment.forgive()

    def admitted(self, wanted: Sequence[Policy]) -> tuple[Policy, ...]:
        """The policies to enforce when these are wanted."""
        return self._overflow.admitted(self._taken_by_envoy(wanted))

    def _taken_by_envoy(self, wanted: Sequence[Policy]) -> tuple[Policy, ...]:
        before = self.refusals
        admitted = self._containment.admitted(wanted)
        for key in before.keys() - self.refusals.keys():
            log.info("policy %s is another one now, or gone: it is no longer kept from Envoy%s", key, self._whose)
        return admitted

    async def make(self, world: World, wanted: Sequence[Policy], world_of: WorldOf) -> Changed:
        """Applies `world`, which was made of `admitted(wanted)` by `world_of`. If Envoy refuses it, or the kernel has
        no room for it, finds the policies that are to blame, and goes on without them.

        Raises:
            RedirectError: the kernel refused something.
        """
        while True:
            counted = await self._fit(world, wanted, world_of)
            changed = await self._bring(counted.world, wanted, world_of)
            if not self.overfull or changed.applied.nacks or changed.applied.unconfirmed:
                return changed
            # What went with this change has made room.
            now = await self._fit(changed.world, wanted, world_of)
            if now.world is changed.world:
                return changed
            world = now.world

    async def _fit(self, world: World, wanted: Sequence[Policy], world_of: WorldOf) -> Counted:
        """As much of `world` as there is room for."""
        before = dict(self.overfull)
        self._recalled.clear()

        async def count(policies: Sequence[Policy]) -> Counted:
            tried = await asyncio.to_thread(world_of, policies)
            return Counted(tried, await self._applier.need(tried))

        counted = Counted(world, await self._applier.need(world))
        fitting = await self._overflow.fit(self._taken_by_envoy(wanted), counted, count)
        for key in before.keys() - self.overfull.keys():
            log.info("there is room for policy %s now", key)
        for key, each in self.overfull.items():
            if key not in before or before[key].stand_in != each.stand_in:
                log.error("%s", each)
        return fitting

    async def _bring(self, world: World, wanted: Sequence[Policy], world_of: WorldOf) -> Changed:
        applied = await self._applier.apply(world)
        if applied.nacks:
            try:
                refusals = await self._search(world, applied.nacks, world_of)
            except InterruptedSearchError:
                gone = f"Envoy{self._whose} went away while it refused a policy"
                return Changed(world, Applied(unconfirmed=True, problems=(gone,)))
            for refusal in refusals:
                self._containment.refuse(refusal)
                log.error("%s", refusal)
            if refusals:
                world = await asyncio.to_thread(world_of, self.admitted(wanted))
                world = (await self._fit(world, wanted, world_of)).world
                applied = await self._applier.apply(world)
            else:
                await self._applier.offer(world)  # what is not refused of it, instead of the trials
        if not applied.nacks and not applied.unconfirmed:
            self._take(world)
        return Changed(world, applied)

    def _take(self, world: World) -> None:
        withheld = {key for key, refusal in self.refusals.items() if not refusal.stand_in.older}
        self._overflow.take(policy for policy in world.policies if policy.key not in withheld)
        mere = self._overflow.mere
        policies = [policy for policy in world.policies if policy.key not in mere] if mere else world.policies
        self._containment.take(policies, partial(self._applier.told, world))
        self._strange = False

    def _remembered(self, policy: Policy) -> Policy | None:
        """The version of it that was in force last, of an earlier agent's."""
        if policy.source not in self._recalled:
            try:
                found = self._memory.policies(policy.source)
            except StateError as error:  # then what only it allows is denied
                log.error("%s", error)
                found = ()
            self._recalled[policy.source] = {each.key: each for each in found}
        return self._recalled[policy.source].get(policy.key)

    async def _search(self, world: World, nacks: Mapping[str, str], world_of: WorldOf) -> list[Refusal]:
        async def offer(policies: Sequence[Policy]) -> Mapping[str, str]:
            applied = await self._applier.offer(await asyncio.to_thread(world_of, policies))
            if applied.unconfirmed:
                raise InterruptedSearchError
            return applied.nacks

        remembered: dict[str, dict[PolicyKey, Policy]] = {}

        def recall(policy: Policy) -> Policy | None:
            if self._strange:
                return None
            if policy.source not in remembered:
                remembered[policy.source] = {each.key: each for each in self._memory.policies(policy.source)}
            return remembered[policy.source].get(policy.key)

        self.searches += 1
        told = self._applier.told(world, nacks.keys())
        return await Search(self._containment, offer, recall, self._node).run(world.policies, nacks, told)
