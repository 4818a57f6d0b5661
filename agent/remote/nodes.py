"""Remote Envoys: each is told the policies of the workloads that the list puts on its node, and nothing else.

Nothing here waits for another node: each has a task of its own, which brings about what is wanted there as that node's
Envoy acknowledges. An Envoy that is away gets the last step when it comes. What one refuses is held back on its node
alone, as on the agent's own (change.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from ...envoy.inspection.admin import TlsDoor
from ...policies import PolicyKey, World
from ...policies.workload import Workload
from ...xds import XdsServer
from ..force.applied import Applied
from ..force.change import ChangeMaker
from ..force.effect_watch import Effect, EffectWatch
from ..refusal.containment import Refusal
from ..supply.intake import Intake
from ..supply.last_good import LastGood, keep
from .applier import RemoteApplier

log = logging.getLogger("lockgate.agent")

_LOOK_SECONDS = 1.0  # how often it is asked whether an Envoy has come, or another one in its place
_RETRY_SECONDS = 1.0  # after something went wrong; twice as long each time
_LONGEST_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be brought about on every node: `world` holds the intake's policies, or where not `exact`, stand-ins
    for those that the agent's own Envoy refuses. `world_of` makes the same world of other policies."""

    world: World
    intake: Intake
    world_of: partial[World]
    exact: bool = True


class RemoteNode:
    """One of them."""

    def __init__(self, node: str, xds: XdsServer, memory: LastGood, door: TlsDoor | None = None) -> None:
        """`memory` is of what this node's Envoy took; `door` leads to where it is asked what it has in force."""
        self.node = node
        self._xds = xds
        self._watch = EffectWatch(xds, node, door) if door is not None else None
        self._applier = RemoteApplier(node, xds)
        self._memory = memory
        self._changes = ChangeMaker(self._applier, memory, node)
        self._wanted: Wanted | None = None
        self._brought: Wanted | None = None  # last
        self._owed = False  # that went wrong
        self._news = asyncio.Event()
        self._applied = Applied()
        self._build = ""  # of the Envoy that answered last
        self._settled = False  # its Envoy took the last change
        self._failure = ""
        self._memory_problem = ""

    @property
    def refusals(self) -> Mapping[PolicyKey, Refusal]:
        """The policies that its Envoy refuses."""
        return self._changes.refusals

    @property
    def searches(self) -> int:
        """How often its Envoy had to be asked who is to blame."""
        return self._changes.searches

    @property
    def effect(self) -> Effect | None:
        """What it has in force; None when nobody asks it."""
        return self._watch.effect if self._watch is not None else None

    @property
    def problems(self) -> Iterable[str]:
        """What is wrong, in sentences."""
        yield from map(str, self.refusals.values())
        yield from self._applied.problems
        yield from (f"remote node {self.node}: {origin}: {reason}" for origin, reason in self._applied.unexpressed)
        if self._applied.nack:
            yield (
                f"remote node {self.node} refused the last change, the policies before it stay enforced there: "
                f"{self._applied.nack}"
            )
        yield from filter(None, (self._failure, self._memory_problem))
        if (effect := self.effect) is not None:
            yield from map(str, effect.drifts)
            if effect.failure and any(
                client.remote and client.node == self.node for client in self._xds.status().clients
            ):
                yield f"remote node {self.node} cannot be asked what it has in force: {effect.failure}"

    def want(self, wanted: Wanted) -> None:
        """From now on this, and nothing before it that has not been begun."""
        self._wanted = wanted
        self._news.set()

    async def watch(self) -> None:
        """Asks it for as long as the agent lives, when it has a door."""
        if self._watch is not None:
            await self._watch.run()

    async def run(self) -> None:
        """For as long as the agent lives. What goes wrong is tried again."""
        patience = _RETRY_SECONDS
        while True:
            if not self._failure:
                await self._until_there_is_something_to_do()
            self._news.clear()
            try:
                await self._catch_up()
            except Exception as error:  # whatever it is, the node that the agent runs on must not suffer from it
                self._tell(error)
                await asyncio.sleep(_RETRY_SECONDS)  # also when there is news all the time
                await self._until_news(patience - _RETRY_SECONDS)
                patience = min(patience * 2, _LONGEST_RETRY_SECONDS)
            else:
                self._failure = ""
                patience = _RETRY_SECONDS

    async def _until_there_is_something_to_do(self) -> None:
        while not self._news.is_set() and not self._is_another() and not await self._applier.news():
            await self._until_news(_LOOK_SECONDS)

    async def _until_news(self, seconds: float) -> None:
        """Waits so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _catch_up(self) -> None:
        """Brings about what is wanted; first once more what was wanted before, where another Envoy may be there: it is
        the last good version of what that refuses next."""
        if self._is_another():
            self._changes.forgive()
            await self._bring_again()
        elif await self._applier.news():
            if self._settled:
                self._changes.distrust()
            await self._bring_again()
        if self._wanted is not None and (self._wanted is not self._brought or self._owed):
            await self._bring(self._wanted)

    async def _bring_again(self) -> None:
        if self._brought is not None:
            await self._bring(self._brought)

    def _tell(self, error: Exception) -> None:
        failure = f"remote node {self.node} was not told of the last change: {error!r}; it is tried again"
        if failure != self._failure:
            log.error("%s", failure, exc_info=error)
        self._failure = failure

    def _is_another(self) -> bool:
        """There is another Envoy than the one that refused policies."""
        build = self._xds.build_of(self.node)
        return bool(self.refusals and build) and build != self._build

    async def _bring(self, wanted: Wanted) -> None:
        self._brought, self._owed = wanted, True
        policies = wanted.intake.policies
        admitted = self._changes.admitted(policies)
        world = wanted.world
        if not wanted.exact or self.refusals:
            world = await asyncio.to_thread(wanted.world_of, admitted)
        changed = await self._changes.make(world, policies, wanted.world_of)
        applied = self._applied = changed.applied
        self._build = self._xds.build_of(self.node) or self._build
        if applied.nack:
            log.error("remote node %s refused the policies, the last good ones stay: %s", self.node, applied.nack)
        self._settled = not applied.nack and not applied.unconfirmed and not applied.problems
        if not applied.nack and not applied.unconfirmed:
            if self._watch is not None:
                self._watch.changed(time.monotonic())
            part = wanted.intake.part(self._applier.told(changed.world))
            self._memory_problem = await keep(self._memory, part, self.refusals.values(), self._memory_problem)
        self._owed = False


class RemoteNodes:
    """All that the agent's configuration names."""

    def __init__(
        self, nodes: Iterable[str], xds: XdsServer, state_dir: Path, doors: Mapping[str, TlsDoor] = MappingProxyType({})
    ) -> None:
        """Raises StateError. Below `state_dir` each has a folder; `doors` are those of nodes that have one."""
        self._memories = ExitStack()
        self._nodes: dict[str, RemoteNode] = {}
        for node in nodes:
            memory = LastGood.open(state_dir / "remote" / node)
            self._memories.callback(memory.close)
            self._nodes[node] = RemoteNode(node, xds, memory, doors.get(node))

    @property
    def names(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(self._nodes)

    @property
    def refusals(self) -> Mapping[str, Mapping[PolicyKey, Refusal]]:
        """The policies that their Envoys refuse, by node."""
        return {name: node.refusals for name, node in self._nodes.items()}

    @property
    def searches(self) -> int:
        """How often any of their Envoys had to be asked who is to blame."""
        return sum(node.searches for node in self._nodes.values())

    @property
    def effects(self) -> Mapping[str, Effect]:
        """What those have in force that are asked, by node."""
        return {name: node.effect for name, node in self._nodes.items() if node.effect is not None}

    def want(self, wanted: Wanted) -> None:
        """Bring this about on all of them; returns at once."""
        for node in self._nodes.values():
            node.want(wanted)

    async def run(self) -> None:
        """For as long as the agent lives."""
        async with asyncio.TaskGroup() as group:
            for node in self._nodes.values():
                group.create_task(node.run(), name=f"remote node {node.node}")
                group.create_task(node.watch(), name=f"effect on {node.node}")
            await asyncio.Event().wait()

    def close(self) -> None:
        """Closes what is remembered of them."""
        self._memories.close()

    def problems(self, workloads: Iterable[Workload]) -> list[str]:
        """A sentence for each thing that is wrong with remote nodes; that one is not connected is not."""
        found = [
            f"workload {each.key} is on node {each.node}, which is not among remote: nodes in the config file: "
            "nothing is enforced for it"
            for each in workloads
            if each.node and each.node not in self._nodes
        ]
        for node in self._nodes.values():
            found += node.problems
        return found
