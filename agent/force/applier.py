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
from dataclasses import replace
from ipaddress import ip_network
from types import MappingProxyType
from typing import TypeVar

from ...envoy.config.running_stream import RunningStream
from ...policies import PolicyKey, World
from ...policies.identity import IPNetwork
from ...policies.workload import Endpoint, IPAddress
from ...redirect.datapath import Datapath
from ...redirect.errors import SystemRefusedError
from ...redirect.map_changes import readdressed
from ...redirect.plan import DEFAULT_DNS_PORT, DatapathPlan, ProxyPorts
from ...redirect.planner import lies_in
from ...redirect.revocation import end_accepted
from ...redirect.room import Need
from ...store import ContainerNetwork, PodNetwork
from ...xds import Enforced, Outcome, Settled, XdsServer
from ..refusal.blame import ALL, told_in
from .applied import Applied
from .bridge_guard import Guarded
from .envoy_side import EnvoySide, Needs
from .kafka_side import KafkaSide
from .kernel_side import Kernel, KernelSide
from .tls_side import TlsSide
from .unserved import unserved

ACK_SECONDS = 15.0  # how long a living Envoy may take over one change before it is reported
NARROW_SECONDS = 1.0  # and before the kernel gets what Envoy need not know
FIRST_SECONDS = 5.0  # the same for the first world, which Envoy takes longest over
_OVERTAKEN_SECONDS = 3.0  # how long it is waited for when something newer is wanted
_LOOK_SECONDS = 0.5  # how often it is looked at meanwhile
_SILENT = "Envoy runs, but has not answered to the last change yet: what it has to know for is dropped"
_REFUSED = (
    "Envoy refused the last change when the kernel had what narrows of it already: what it had to know for stays "
    "dropped until a change that it takes"
)
_CLOSED = 0  # a redirect to this port is a drop

T = TypeVar("T")
_log = logging.getLogger(__name__)


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
        self._xds = xds
        self._envoy_runs = envoy_runs
        self._dns_uses = dns_uses
        self._ports = ProxyPorts(http_port, dns_port, tls.port, kafka.port)
        self._envoy = EnvoySide(tls, kafka)
        self._kernel = KernelSide(datapath, recalled=not redirecting)
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
            await self._in_thread(lambda: self._kernel.attach(endpoints))

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
        if applied.nacks:
            self._silent = False
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
                lambda: self._kernel.sync(enforced, self._kernel.plan(enforced, world, ports), before_it, world)
            )
            self.world, self._offered, self.closed = world, None, self._kernel.closed
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
                plan = self._kernel.plan(enforced, world, self._ports)
                if plan == self._narrowed:
                    return ()
                self._narrowed = None
                problems = self._kernel.narrow(enforced, plan, self._ports, before, world)
                self._narrowed = plan if not problems else None
                _log.warning("Envoy has not answered to a change yet: what it has to know for is dropped until it has")
                return problems

            for problem in await self._in_thread(work):
                _log.error("%s", problem)
            self._unheard = self._unheard or before
            self.world, self._offered, self.closed = world, None, self._kernel.closed

    async def need(self, world: World) -> Need:
        """The entries that `world` takes in the kernel's maps. Raises RedirectError."""
        enforced = self._enforced(world)

        def work() -> Need:
            # The first plan takes long; where it need not be counted it is made while Envoy takes up what it is told.
            if self.world is None and self._kernel.has_ample_room(enforced, world):
                return Need({}, {})
            return self._kernel.need(self._kernel.plan(enforced, world, self._ports))

        async with self._turn:
            return await self._in_thread(work)

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
        enforced = self._enforced(world)
        # What an earlier agent had the kernel redirect is not known here: a subtree for everyone meanwhile.
        before = self._policed if self._policed is not None else Needs.everyones(enforced)
        return enforced, Needs.of(enforced), before

    def _enforced(self, world: World) -> Enforced:
        return [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints if endpoint.local]

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
        unexpressed = (*telling.unexpressed, *unserved(enforced))
        revision = await self._xds.publish(telling.snapshot)
        if self.world is None:
            # The first plan takes long, and so does Envoy: the planner will remember it.
            await self._in_thread(lambda: self._kernel.plan(enforced, world, self._ports))
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
        """A sentence while the kernel has what Envoy has not heard of, or refused."""
        narrow = self._unheard is not None or self._narrowed is not None
        return _SILENT if self._silent else _REFUSED if narrow else ""

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
            networks = [each for each in map(ip_network, names) if not lies_in(each, self._kernel.closed)]
            changes = readdressed(before.ipcache, after.ipcache, networks)
            if changes:
                for problem in await self._in_thread(lambda: self._kernel.readdress(changes, before, after)):
                    _log.error("%s", problem)
                self.world = after
                self._dns_uses(after)
            return True

    async def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that an endpoint has a live connection with."""
        async with self._turn:
            return await self._in_thread(lambda: self._kernel.busy(addresses))

    async def guard(self, networks: Sequence[ContainerNetwork], pods: PodNetwork | None = None) -> Guarded:
        """Has the bridges of these networks lead to endpoints only, and pods that are none cut off. Raises
        RedirectError."""
        async with self._turn:
            endpoints = self.world.endpoints if self.world is not None else ()
            return await self._in_thread(lambda: self._kernel.guard(networks, pods, endpoints))

    async def kernel(self) -> Kernel:
        """A look into the kernel, between two changes."""
        async with self._turn:
            return await self._in_thread(self._kernel.look)

    async def keep_hold(self) -> bool:
        """What somebody has taken away from under the data path is put back. True when a program at an interface in
        force is gone: a round puts it back. Raises RedirectError."""
        async with self._turn:
            return await self._in_thread(lambda: self._kernel.keep_hold(self.world))

    async def uplinks(self, named: Sequence[str] | None) -> tuple[str, ...]:
        """Follows the node's interfaces; `named` are those the user chose. A sentence for each that failed."""
        async with self._turn:
            return await self._in_thread(lambda: self._kernel.uplinks(named, self.world))

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
