"""Brings what the store and the node's interfaces say into force, one round after the other."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ...policies import World
from ...policies.workload import Endpoint, Workload
from ...redirect.device import NodeAddresses, looking, node_addresses
from ...redirect.errors import RedirectError
from ...store import StoreContent
from ..dns.learner import Names
from ..dns.names import NameCache
from ..errors import StateError
from ..inspection.node_state import NodeState
from ..refusal.containment import Refusal
from ..refusal.overfull import Overfull
from ..remote.nodes import RemoteNodes, Wanted
from ..supply.endpoints import Discovery, discover
from ..supply.intake import Intake, admit
from ..supply.last_good import LastGood, keep
from ..supply.processes import Processes
from .applied import Applied
from .applier import Applier
from .change import Changed, ChangeMaker
from .service_side import ServiceSide

log = logging.getLogger("lockgate.agent")

_SETTLE_SECONDS = 0.02  # several news of one change (a pod's links come in pairs, the names of an answer) are one
_RETRY_SECONDS = 1.0  # after the kernel refused something, or Envoy did not answer
_LOOK_SECONDS = 5.0  # for a workload that was not found as it is listed: an address may come without news of a link


class Reconciler:
    """Keeps Envoy, the kernel and remote nodes at what is wanted, and `state` at what became of it.

    `made` is told of every change that Envoy confirmed, with the time it began (of time.monotonic).
    """

    def __init__(
        self,
        state: NodeState,
        names: NameCache,
        applier: Applier,
        changes: ChangeMaker,
        last_good: LastGood,
        processes: Processes,
        services: ServiceSide,
        remote: RemoteNodes,
        made: Callable[[float], None],
    ) -> None:
        self._state = state
        self._names = names
        self._applier = applier
        self._changes = changes
        self._last_good = last_good
        self._processes = processes
        self._services = services
        self._remote = remote
        self._made = made
        self._content = StoreContent((), ())
        self._intake = Intake()
        self._changed = asyncio.Event()
        applier.overtaken = self._changed.is_set
        self._look_again = True  # the node's interfaces may be others than in `state.discovery`
        self._again = False  # the same world means other maps
        self._wanted: Wanted | None = None  # on remote nodes
        self._rounds: list[asyncio.Event] = []  # set after a round that began later

    def store_says(self, content: StoreContent) -> None:
        """What is wanted from now on."""
        self._content = content
        self._changed.set()

    def apply_again(self) -> None:
        """What is wanted has to come into force anew: other prefixes are closed."""
        self._again = True
        self._changed.set()

    def look_again(self) -> None:
        """The node's interfaces may be others."""
        self._look_again = True
        self._changed.set()

    async def bring(self, names: Names) -> None:
        """Learned addresses into force: straight into the kernel where that is enough."""
        applier = self._applier
        if await applier.readdress(names):
            if applier.world is not None and self._state.world is not None:
                self._state.world = applier.world
            self._readdress_others(names)
            return
        done = asyncio.Event()
        self._rounds.append(done)
        self._changed.set()
        await done.wait()

    def _readdress_others(self, names: Names) -> None:
        wanted = self._wanted
        world = wanted.world.with_addresses(names) if wanted is not None else None
        if wanted is not None and world is not None and world is not wanted.world:
            world_of = partial(wanted.world_of, previous=world, names=self._names.by_name())
            self._want_of_others(replace(wanted, world=world, world_of=world_of))

    def _want_of_others(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._remote.want(wanted)

    async def run(self, listed: Intake, reading: Awaitable[Intake]) -> None:
        """`reading` is what the store says first, already read; `listed` has its workloads, and is there sooner."""
        world: World | None = None
        selected = False  # a policy is about the node itself
        state, applier, changes = self._state, self._applier, self._changes
        self._look_again = False
        seen = await _look(listed.workloads, self._processes)  # while the policies are read
        while True:
            await self._until_changed()
            started = time.monotonic()
            waiting, self._rounds = self._rounds, []
            before = self._intake if world is not None else await reading
            try:
                intake = await asyncio.to_thread(admit, before, self._content, self._last_good)
            except StateError as error:  # what a broken file held before cannot be told: nothing is changed
                _tell_new((str(error),), (state.memory_problem,))
                state.memory_problem = str(error)
                self._rounds += waiting
                continue
            _tell_problems(self._intake, intake)
            muting: Awaitable[None] | None = None
            looks = world is None
            if self._look_again or intake.workloads != seen.workloads:
                looks, self._look_again = True, False
                seen = await self._look(intake.workloads, seen)
            if looks:
                _tell_new(seen.discovery.problems, state.discovery.problems)
                state.discovery = seen.discovery
                muting = asyncio.create_task(applier.mute(seen.discovery.endpoints))  # while Envoy is told
            state.intake = self._intake = intake
            applier.names_taken()
            world_of = partial(
                World.of,
                endpoints=state.discovery.endpoints,
                previous=world,
                hosts=seen.own.ips,
                broadcasts=seen.own.broadcast,
                services=intake.services,
                nodes=intake.nodes,
                names=self._names.by_name(),
                secrets=intake.header_values.values,
                tls=intake.tls,
                node_labels=_node_labels(state, intake),
            )
            wanted = await asyncio.to_thread(world_of, changes.admitted(intake.policies))
            if world is None or not state.settled or self._again or not world.tells_the_same(wanted):
                self._again = False
                try:
                    changed = await changes.make(wanted, intake.policies, world_of)
                except RedirectError as error:
                    changed = Changed(wanted, Applied(problems=(str(error),)))
                if applier.world is not None:
                    await self._services.follow(applier.world)
                _tell_applied(state, changed.applied, changed.world, time.monotonic() - started)
                world = changed.world
                state.finish(applier.world or world, changed.applied)
                if not changed.applied.nack:
                    exact = not changes.refusals and not changes.overfull
                    self._want_of_others(Wanted(world, intake, partial(world_of, previous=world), exact))
                if state.settled:
                    self._made(started)
                if applier.late:
                    self._changed.set()  # Envoy may have to know
            state.refusals, state.overfull = changes.refusals, changes.overfull
            if muting is not None:
                await muting
            selects = applier.world is not None and applier.world.host is not None
            if looks or state.uplink_problems or selects != selected:
                selected = selects
                await self._follow_uplinks()
            if not gc.isenabled():
                gc.freeze()
                gc.enable()
            for event in waiting:
                event.set()
            if state.settled:
                held: list[Refusal | Overfull] = [*state.refusals.values(), *state.overfull.values()]
                state.memory_problem = await keep(self._last_good, intake, held, state.memory_problem)

    async def _look(self, workloads: tuple[Workload, ...], before: _Seen) -> _Seen:
        """What cannot be looked at stays as it was `before`, and is looked at again."""
        try:
            return await _look(workloads, self._processes, before.discovery.endpoints)
        except RedirectError as error:
            self._look_again = True
            return replace(before, discovery=replace(before.discovery, problems=(str(error),)))

    async def _follow_uplinks(self) -> None:
        state = self._state
        try:
            problems = await self._applier.uplinks(state.settings.uplinks)
        except RedirectError as error:
            problems = (str(error),)
        _tell_new(problems, state.uplink_problems)
        state.uplink_problems = problems

    async def _until_changed(self) -> None:
        """Waits for news, or until what went wrong is worth another try."""
        state = self._state
        looks = state.discovery.problems or state.uplink_problems
        failed = state.applied.problems or self._look_again
        patience = _RETRY_SECONDS if failed else _LOOK_SECONDS if looks or state.memory_problem else None
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            self._look_again = self._look_again or bool(looks or state.applied.problems)
        else:
            if self._look_again or self._rounds:
                await asyncio.sleep(_SETTLE_SECONDS)
        self._changed.clear()


def _node_labels(state: NodeState, intake: Intake) -> dict[str, str]:
    """For nodeSelector: what the settings say counts before what the cluster says of this node."""
    where = state.settings.kubernetes
    name = where.node if where is not None else state.node
    told = {key: value for node in intake.nodes if node.name == name for key, value in node.labels}
    return {"kubernetes.io/hostname": state.node, **told, **dict(state.settings.node_labels)}


@dataclass(frozen=True, slots=True)
class _Seen:
    """The node when it was looked at for these workloads."""

    workloads: tuple[Workload, ...]
    discovery: Discovery
    own: NodeAddresses


async def _look(workloads: tuple[Workload, ...], processes: Processes, before: Sequence[Endpoint] = ()) -> _Seen:
    """Raises RedirectError."""
    own = await asyncio.to_thread(node_addresses)
    return _Seen(workloads, await asyncio.to_thread(_discover, workloads, processes, before), own)


def _discover(workloads: tuple[Workload, ...], processes: Processes, before: Sequence[Endpoint]) -> Discovery:
    with looking() as find:
        found = discover(workloads, lambda workload: processes.device(workload, find), before)
    try:
        processes.keep(workloads)
    except StateError as error:
        return replace(found, problems=(*found.problems, str(error)))
    return found


def _tell_problems(before: Intake, now: Intake) -> None:
    known = set(before.problems)
    for problem in now.problems:
        if problem not in known:
            (log.error if problem.is_error else log.warning)("%s", problem)
    for key, lacking in now.lacking.items():
        for problem in lacking:
            if problem not in before.lacking.get(key, ()):
                log.warning("%s", problem)
    for key in sorted(now.stale - before.stale):
        log.warning("policy %s stays enforced in its last good version", key)
    for ref in sorted(now.stale_secrets - before.stale_secrets):
        log.warning("secret %s stays in force in its last good version", ref)


def _tell_new(now: tuple[str, ...], before: tuple[str, ...]) -> None:
    for problem in now:
        if problem not in before:
            log.error("%s", problem)


def _tell_applied(before: NodeState, applied: Applied, world: World, seconds: float) -> None:
    if applied.nack:
        if applied.nack != before.applied.nack:
            log.error("Envoy refused the policies, the last good ones stay enforced: %s", applied.nack)
        return
    for origin, reason in applied.unexpressed:
        log.error("%s:%d: %s: %s", origin.source, origin.line, origin.path, reason)
    _tell_new(applied.problems, before.applied.problems)
    if not applied.problems:
        log.info(
            "%d policies on %d endpoints in force after %.0f ms",
            len(world.policies),
            sum(endpoint.local for endpoint in world.endpoints),
            seconds * 1000,
        )
