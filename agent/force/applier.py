"""Bringing a world into force: Envoy first, then the kernel, then what Envoy no longer needs.

The order makes every moment safe. A redirect is written to the kernel's map only when Envoy has acknowledged the
policy that judges it; an endpoint whose last L7 rule went away keeps its subtree in Envoy (judging by the new policy)
until the kernel has stopped redirecting to it, and an identity that leaves the node keeps its own until the kernel's
ipcache no longer says it, for by that map Envoy tells who is who. A new address of a known identity is the ipcache's
business alone: Envoy already knows what to say of it. An address that has changed hands takes no connection along:
what a proxy carries for it is reset once the kernel knows better (see handover.py). When Envoy refuses a policy nothing
further happens: the kernel goes on with what it had, and so does Envoy in the resources that it refused.

An Envoy that does not answer holds up only what it has to know of: after a moment the kernel gets all else, with drops
where Envoy would have to be told first (see redirect/narrowing.py). So what is denied now is denied, also by an Envoy
that hangs, and an endpoint without rules by request comes and goes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import TypeVar

from ...envoy.config.running_stream import RunningStream
from ...policies import PolicyKey, World
from ...policies.identity import IPNetwork
from ...policies.workload import Endpoint, IPAddress
from ...redirect.datapath import Datapath
from ...redirect.errors import RedirectError, SystemRefusedError
from ...redirect.grace_period import expedited
from ...redirect.map_changes import MapDelta, readdressed
from ...redirect.narrowing import narrowed
from ...redirect.plan import DEFAULT_DNS_PORT, DatapathPlan, Owner, Planner, ProxyPorts, lies_in
from ...redirect.reason import Counter
from ...redirect.revocation import end_accepted
from ...redirect.uplink import interfaces
from ...store import ContainerNetwork, PodNetwork
from ...xds import Enforced, Outcome, Settled, XdsServer
from ..refusal.blame import ALL, told_in
from .applied import Applied
from .bridge_guard import BridgeGuard, Guarded
from .envoy_side import EnvoySide, Needs
from .handover import Handover
from .kafka_side import KafkaSide
from .pod_guard import CutOff, PodGuard, pod_bridges
from .tls_side import TlsSide
from .uplinks import Uplinks

ACK_SECONDS = 15.0  # how long a living Envoy may take over one change before it is reported
NARROW_SECONDS = 1.0  # and before the kernel gets what Envoy need not know
FIRST_SECONDS = 5.0  # the same for the first world, which Envoy takes longest over
_OVERTAKEN_SECONDS = 3.0  # how long it is waited for when something newer is wanted
_LOOK_SECONDS = 0.5  # how often it is looked at meanwhile
_SILENT = "Envoy runs, but has not answered to the last change yet: what it has to know for is dropped"
_CLOSED = 0  # a redirect to this port is a drop

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel holds at one moment: policed interfaces, entries by map, packets by what became of them."""

    attached: frozenset[int]
    sizes: Mapping[str, int]
    counters: tuple[Counter, ...]
    uplinks: frozenset[int] = frozenset()
    bridges: frozenset[int] = frozenset()  # of container engines, that lead to endpoints only
    newcomers: int | None = None  # frames from and to ports of these that nothing polices; None: they are let be
    unseen: CutOff | None = None  # pods that nothing polices; None: they are let be
    far_ends: frozenset[int] | None = None  # that may get packets past the node's stack; None: no host routing


class Applier:
    """Applies one world after the other; the caller never starts two at once."""

    def __init__(
        self,
        datapath: Datapath,
        xds: XdsServer,
        http_port: int,
        envoy_runs: Callable[[], bool],
        tls: TlsSide,
        kafka: KafkaSide,
        *,
        dns_port: int = DEFAULT_DNS_PORT,
        dns_uses: Callable[[World], None] = lambda _: None,
        redirecting: bool = True,
    ) -> None:
        """`dns_uses` tells the DNS proxy what to judge by. `redirecting`: the kernel may have redirects of an earlier
        agent."""
        self._datapath = datapath
        self._xds = xds
        self._envoy_runs = envoy_runs
        self._dns_uses = dns_uses
        self._ports = ProxyPorts(http_port, dns_port, tls.port, kafka.port)
        self._envoy = EnvoySide(tls, kafka)
        self._planner = Planner()
        self._handover = Handover()
        self._recalled = not redirecting  # no proxy carries anything then
        self._bridges = BridgeGuard(datapath)
        self._pods = PodGuard(datapath)
        self._uplinks = Uplinks(datapath)
        self._turn = asyncio.Lock()  # the data path is for one thread at a time
        # Of what the kernel may redirect; None: not known, an earlier agent's.
        self._policed: Needs | None = None if redirecting else Needs()
        self._late: dict[IPAddress, frozenset[str]] = {}
        self.world: World | None = None  # what the kernel has
        self.closed: tuple[IPNetwork, ...] = ()  # likewise: where nobody may be but endpoints and the node
        self._offered: World | None = None  # what Envoy may have taken up, wholly or in part, and the kernel has not
        self._unheard: World | None = None  # what Envoy judges by when it has not heard of `world`
        self._narrowed: DatapathPlan | None = None  # of which the kernel has all that Envoy need not know
        self._silent = False  # Envoy has not answered to the last change in time
        self.overtaken: Callable[[], bool] = lambda: False  # whether something newer is wanted than what is applied

    async def mute(self, endpoints: Iterable[Endpoint]) -> None:
        """Has those that nothing polices yet drop everything until a world that has them is in force: Envoy may take
        its time, or refuse. What fails here fails in `apply` again, and is told there."""
        async with self._turn:
            await self._in_thread(lambda: self._attach(endpoints))

    async def apply(self, world: World) -> Applied:
        """Brings `world` into force.

        Raises:
            RedirectError: the kernel refused something. What was applied before it stays, and a retry converges.
        """
        enforced, wanted, before = self._needs(world)
        leaving = self._leaving(enforced)
        applied = await self._offer(
            [*enforced, *leaving], world, wanted | before, lambda: self._narrow(enforced, world, wanted | before)
        )
        if applied.nacks or (applied.unconfirmed and self._envoy_runs()):
            # It still judges by what it had, so the kernel must not send it anything new.
            return applied
        unconfirmed, unexpressed = applied.unconfirmed, applied.unexpressed
        ports = replace(self._ports, http=_CLOSED, tls=_CLOSED, kafka=_CLOSED) if unconfirmed else self._ports
        async with self._turn:
            world = world.with_addresses(self._late) or world
            self._dns_uses(world)
            before_it = self.world
            self._policed = wanted | before  # if the next step fails half-way
            problems = await self._in_thread(
                lambda: self._sync_kernel(enforced, self._plan(enforced, world, ports), before_it, world)
            )
            self.world, self._offered, self.closed = world, None, self._closed
            self._unheard, self._narrowed, self._silent = None, None, False
        if unconfirmed:
            return Applied(
                unconfirmed=True, unexpressed=unexpressed, problems=(*problems, "Envoy is down: L7 is dropped")
            )
        self._policed = wanted
        if leaving or wanted | before != wanted:
            await self._xds.publish(self._envoy.told(enforced, world, wanted).snapshot)
        return Applied(unexpressed=unexpressed, problems=problems, unspared=self._envoy.problem)

    async def _narrow(self, enforced: Enforced, world: World, needs: Needs) -> None:
        """What Envoy need not know of `world`, into the kernel. Raises RedirectError."""
        async with self._turn:
            world = world.with_addresses(self._late) or world
            self._dns_uses(world)
            before = self.world
            self._policed, self._silent = needs, True

            def work() -> tuple[str, ...]:
                plan = self._plan(enforced, world, self._ports)
                if plan == self._narrowed:
                    return ()
                self._narrowed = None
                envoy = (self._ports.http, self._ports.tls, self._ports.kafka)
                meanwhile = narrowed(self._datapath.current, plan, envoy)
                problems = self._sync_kernel(enforced, meanwhile, before, world)
                self._narrowed = plan if not problems else None
                _log.warning("Envoy has not answered to a change yet: what it has to know for is dropped until it has")
                return problems

            for problem in await self._in_thread(work):
                _log.error("%s", problem)
            self._unheard = self._unheard or before
            self.world, self._offered, self.closed = world, None, self._closed

    async def offer(self, world: World) -> Applied:
        """Shows `world` to Envoy, which judges by it from then on if it takes it. Nothing is told to the kernel, and
        `apply` is owed."""
        enforced, wanted, before = self._needs(world)
        return await self._offer([*enforced, *self._leaving(enforced)], world, wanted | before)

    def told(self, world: World, resources: Collection[str] = ALL) -> frozenset[PolicyKey]:
        """The policies that go into these resources."""
        return told_in(world, (each for each in world.endpoints if each.local), resources)

    def _needs(self, world: World) -> tuple[Enforced, Needs, Needs]:
        """The endpoints to enforce for; who needs Envoy for this world, and for the one in force."""
        enforced = [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints if endpoint.local]
        # What an earlier agent had the kernel redirect is not known here: a subtree for everyone meanwhile.
        before = self._policed if self._policed is not None else Needs.everyones(enforced)
        return enforced, Needs.of(enforced), before

    def _leaving(self, enforced: Enforced) -> Enforced:
        """The endpoints in force whose identities no endpoint will have, with the policies in force."""
        if self.world is None:
            return ()
        staying = {endpoint.identity for endpoint, _ in enforced}
        return [
            (endpoint, self.world.policy_of(endpoint))
            for endpoint in self.world.endpoints
            if endpoint.local and endpoint.identity not in staying
        ]

    async def _offer(
        self,
        enforced: Enforced,
        world: World,
        needs: Needs,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> Applied:
        """`meanwhile` is done once when Envoy lives and takes its time."""
        self._offered = world
        telling = self._envoy.told(enforced, world, needs)
        unexpressed = telling.unexpressed
        revision = await self._xds.publish(telling.snapshot)
        if self.world is None:
            # The first plan takes long, and so does Envoy: the planner will remember it.
            await self._in_thread(lambda: self._plan(enforced, world, self._ports))
        answer = await self._answer(revision, meanwhile)
        if self._envoy.gives_way(answer):
            answer = await self._answer(await self._xds.publish(self._envoy.told(enforced, world, needs).snapshot))
        if answer.outcome is Outcome.NACKED:
            nacks = MappingProxyType({name: text for (_, name), text in answer.errors})
            return Applied(nacks, unexpressed=unexpressed)
        if answer.acked:
            return Applied(unexpressed=unexpressed)
        return Applied(unconfirmed=True, unexpressed=unexpressed, problems=(_SILENT,))

    @property
    def silence(self) -> str:
        """A sentence while the kernel has what Envoy has not heard of."""
        return _SILENT if self._silent else ""

    @property
    def judging(self) -> tuple[World, ...]:
        """The worlds that Envoy may be judging by: the one in force, and one that it was offered."""
        return tuple(world for world in (self._unheard, self.world, self._offered) if world is not None)

    async def end_streams(self, streams: Iterable[RunningStream]) -> None:
        """Close the connections that they came in. Raises RedirectError."""
        ends = [(each.source.ip, each.source.port, each.destination.ip, each.destination.port) for each in streams]
        async with self._turn:
            await self._in_thread(lambda: end_accepted(ends))

    def names_taken(self) -> None:
        """The names of the next world to `apply` are those of this moment: only what is learned from now on is late."""
        self._late = {}

    @property
    def late(self) -> bool:
        """True when addresses were learned after `names_taken`."""
        return bool(self._late)

    async def readdress(self, names: Mapping[IPAddress, frozenset[str]]) -> bool:
        """Brings addresses with their names into force, also while `apply` waits for Envoy.

        False when that takes more than the kernel's ipcache: an identity that does not exist yet.

        Raises:
            RedirectError: the kernel refused it.
        """
        async with self._turn:
            self._late |= names
            before = self.world
            after = before.with_addresses(names) if before is not None else None
            if before is None or after is None:
                return False
            networks = [each for each in map(ip_network, names) if not lies_in(each, self._closed)]
            changes = readdressed(before.ipcache, after.ipcache, networks)
            if changes:
                for problem in await self._in_thread(lambda: self._readdress(changes, before, after)):
                    _log.error("%s", problem)
                self.world = after
                self._dns_uses(after)
            return True

    async def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that an endpoint has a live connection with."""
        async with self._turn:
            return await self._in_thread(lambda: self._datapath.busy(addresses))

    async def guard(self, networks: Sequence[ContainerNetwork], pods: PodNetwork | None = None) -> Guarded:
        """Has the bridges of these networks lead to endpoints only, and pods that are none cut off. Raises
        RedirectError."""
        async with self._turn:
            endpoints = self.world.endpoints if self.world is not None else ()
            return await self._in_thread(lambda: self._guard(networks, pods, endpoints))

    def _guard(
        self, networks: Sequence[ContainerNetwork], pods: PodNetwork | None, endpoints: Sequence[Endpoint]
    ) -> Guarded:
        """Blocking."""
        found = interfaces() if pods is not None else ()
        bridges = pod_bridges(pods, found, endpoints) if pods is not None else None
        guarded = self._bridges.sync(networks, {each.ifindex for each in endpoints}, bridges)
        held = self._datapath.held().bridges if pods is not None else frozenset[int]()
        return guarded + self._pods.sync(pods, found, endpoints, held)

    @property
    def _closed(self) -> tuple[IPNetwork, ...]:
        return self._bridges.closed + self._pods.closed

    async def kernel(self) -> Kernel:
        """A look into the kernel, between two changes."""

        def look() -> Kernel:
            path, held = self._datapath, self._datapath.held()
            dropped, unseen = path.strangers.newcomers_dropped(), path.strangers.unseen
            sizes, counters, far_ends = path.sizes(), path.counters(), path.far_ends()
            pods = CutOff.of(unseen) if unseen is not None else None
            return Kernel(held.pods, sizes, counters, held.uplinks, held.bridges, dropped, pods, far_ends)

        async with self._turn:
            return await self._in_thread(look)

    async def keep_hold(self) -> bool:
        """What somebody has taken away from under the data path is put back. True when a program at an interface in
        force is gone: a round puts it back. Raises RedirectError."""

        def look() -> bool:
            if self._datapath.keep_pins():
                _log.error("the pins of the data path were gone, as is the file system that they were in: pinned anew")
            world = self.world
            local = {each.ifindex for each in world.endpoints if each.local} if world is not None else set()
            return bool(local - self._datapath.attached())

        async with self._turn:
            return await self._in_thread(look)

    async def uplinks(self, named: Sequence[str] | None) -> tuple[str, ...]:
        """Follows the node's interfaces; `named` are those the user chose. A sentence for each that failed."""
        async with self._turn:
            return await self._in_thread(lambda: self._uplinks.sync(named, self.world, self._pods.network))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread; who is cancelled meanwhile waits for its end, so that nothing is closed under it.
        Raises RedirectError, whatever it was that failed."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except OSError as error:
            raise SystemRefusedError(
                f"the kernel was not asked or changed to the end ({error}): nothing is opened, and it is tried again"
            ) from error
        finally:
            await asyncio.wait([running])

    async def _answer(self, revision: int, meanwhile: Callable[[], Awaitable[None]] | None = None) -> Settled:
        """Envoy's answer, or what is known when it is dead or has had its time."""
        began = time.monotonic()
        # One that has not answered to the change before is not given time again.
        patience = 0.0 if self._silent else NARROW_SECONDS if self.world is not None else FIRST_SECONDS
        while True:
            answer = await self._xds.settled(revision, min(_LOOK_SECONDS, patience) if meanwhile else _LOOK_SECONDS)
            if answer.outcome in (Outcome.ACKED, Outcome.NACKED):
                return answer
            waited = time.monotonic() - began
            if not self._envoy_runs() or waited > ACK_SECONDS:
                return answer
            if meanwhile is not None and waited >= patience:
                await meanwhile()
                meanwhile = None
            if waited > _OVERTAKEN_SECONDS and self.overtaken():
                return answer

    def _sync_kernel(
        self, enforced: Enforced, wanted: DatapathPlan, before: World | None, world: World
    ) -> tuple[str, ...]:
        """Maps, then programs: an endpoint that none could be attached to is tried again. Blocking."""
        self._handover.begins(self._datapath.current)
        self._datapath.apply(wanted)
        problems = [*self._end_carried(before, world), *self._attach(endpoint for endpoint, _ in enforced)]
        kept = {endpoint.ifindex for endpoint, _ in enforced}
        gone = self._datapath.attached() - kept - self._bridges.ports
        if gone:
            with expedited():
                for ifindex in gone:
                    self._datapath.detach(ifindex)
        return tuple(problems)

    def _plan(self, enforced: Enforced, world: World, ports: ProxyPorts) -> DatapathPlan:
        host = world.policy_of(world.host) if world.host is not None else None
        return self._planner.plan(enforced, world.ipcache, ports, host, self._closed)

    def _readdress(self, changes: MapDelta[IPNetwork, Owner], before: World, after: World) -> tuple[str, ...]:
        """The owners alone, and who is over because of them. Blocking."""
        self._handover.begins(self._datapath.current)
        self._datapath.readdress(changes)
        return self._end_carried(before, after)

    def _end_carried(self, before: World | None, world: World) -> tuple[str, ...]:
        """What proxies carry for ends that are others' in `world`, now that the maps hold it; a sentence if it goes on.
        Blocking."""
        held = self._datapath.current
        try:
            if not self._recalled:
                self._handover.recall(self._datapath.made_by(self._datapath.carried()), held)
                self._recalled = True
            if self._handover.settles(held):
                return ()
            over = self._handover.over(self._datapath.carried(), before, world, held)
            if over:
                ended = self._datapath.end_carried(over)
                _log.info("ended %d connections through Envoy: another identity has come to an end of them", ended)
        except (RedirectError, OSError) as error:
            return (f"connections of addresses that changed go on as they were made: {error}",)
        return ()

    def _attach(self, endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
        """Programs at every local endpoint, and a sentence for each where there could be none. Blocking."""
        attached = self._datapath.attached()
        new = [endpoint for endpoint in endpoints if endpoint.local and endpoint.ifindex not in attached]
        if not new:
            return ()
        problems = []
        with expedited():
            for endpoint in new:
                try:
                    self._datapath.attach(endpoint)
                except RedirectError as error:
                    problems.append(f"endpoint {endpoint.key} is not enforced: {error}")
        return tuple(problems)
