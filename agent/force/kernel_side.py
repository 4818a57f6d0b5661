"""The kernel's part of a world: maps, programs at interfaces, and who is cut off.

All of it blocks, and is for one thread at a time, as the data path is.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from ...policies import World
from ...policies.identity import IPNetwork
from ...policies.workload import Endpoint, IPAddress
from ...redirect.datapath import Datapath
from ...redirect.errors import RedirectError
from ...redirect.grace_period import expedited
from ...redirect.map_changes import MapDelta
from ...redirect.narrowing import narrowed
from ...redirect.plan import DatapathPlan, Owner, ProxyPorts
from ...redirect.planner import Planner
from ...redirect.reason import Counter
from ...redirect.room import Need
from ...redirect.uplink import interfaces
from ...store import ContainerNetwork, PodNetwork
from ...xds import Enforced
from .bridge_guard import BridgeGuard, Guarded
from .handover import Handover
from .pod_guard import CutOff, PodGuard, pod_bridges
from .uplinks import Uplinks

_CLOSED = 2  # networks that nobody may talk to on any node

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kernel:
    """What the kernel holds at one moment: policed interfaces and control groups, entries by map, packets by what
    became of them."""

    attached: frozenset[int]
    sizes: Mapping[str, int]
    counters: tuple[Counter, ...]
    uplinks: frozenset[int] = frozenset()
    bridges: frozenset[int] = frozenset()  # of container engines, that lead to endpoints only
    newcomers: int | None = None  # frames from and to ports of these that nothing polices; None: they are let be
    unseen: CutOff | None = None  # pods that nothing polices; None: they are let be
    far_ends: frozenset[int] | None = None  # that may get packets past the node's stack; None: no host routing
    room: Mapping[str, int] = field(default_factory=dict)  # how many entries each map can hold


class KernelSide:
    """`recalled`: what proxies carry is known, or that they carry nothing, as without redirects of an earlier agent."""

    def __init__(self, datapath: Datapath, *, recalled: bool) -> None:
        self._datapath = datapath
        self._planner = Planner()
        self._handover = Handover()
        self._recalled = recalled
        self._bridges = BridgeGuard(datapath)
        self._pods = PodGuard(datapath)
        self._uplinks = Uplinks(datapath)

    @property
    def closed(self) -> tuple[IPNetwork, ...]:
        """Where nobody may be but endpoints and the node."""
        return self._bridges.closed + self._pods.closed

    def look(self) -> Kernel:
        """A look into the kernel, between two changes."""
        path, held = self._datapath, self._datapath.held()
        dropped, unseen = path.strangers.newcomers_dropped(), path.strangers.unseen
        sizes, counters, far_ends = path.sizes(), path.counters(), path.far_ends()
        pods = CutOff.of(unseen) if unseen is not None else None
        room = {table.value: entries for table, entries in path.room.items()}
        attached = held.pods | path.groups()
        return Kernel(attached, sizes, counters, held.uplinks, held.bridges, dropped, pods, far_ends, room)

    def keep_hold(self, world: World | None) -> bool:
        """What somebody has taken away from under the data path is put back. True when a program at an interface in
        force is gone."""
        if self._datapath.keep_pins():
            _log.error("the pins of the data path were gone, as is the file system that they were in: pinned anew")
        local = {each.ifindex for each in world.endpoints if each.local} if world is not None else set()
        return bool(local - self._datapath.attached())

    def guard(
        self, networks: Sequence[ContainerNetwork], pods: PodNetwork | None, endpoints: Sequence[Endpoint]
    ) -> Guarded:
        """Raises RedirectError when nothing could be looked at."""
        found = interfaces() if pods is not None else ()
        bridges = pod_bridges(pods, found, endpoints) if pods is not None else None
        guarded = self._bridges.sync(networks, {each.ifindex for each in endpoints}, bridges)
        held = self._datapath.held().bridges if pods is not None else frozenset[int]()
        return guarded + self._pods.sync(pods, found, endpoints, held)

    def uplinks(self, named: Sequence[str] | None, world: World | None) -> tuple[str, ...]:
        """Follows the node's interfaces; `named` are those the user chose. A sentence for each that failed."""
        return self._uplinks.sync(named, world, self._pods.network)

    def sync(self, enforced: Enforced, wanted: DatapathPlan, before: World | None, world: World) -> tuple[str, ...]:
        """Maps, then programs: an endpoint that none could be attached to is tried again."""
        self._handover.begins(self._datapath.current)
        self._datapath.apply(wanted)
        problems = [*self._end_carried(before, world), *self.attach(endpoint for endpoint, _ in enforced)]
        kept = {endpoint.ifindex for endpoint, _ in enforced}
        gone = self._datapath.touched() - kept - self._bridges.ports
        if gone:
            with expedited():
                for ifindex in gone:
                    self._datapath.detach(ifindex)
        return tuple(problems)

    def narrow(
        self, enforced: Enforced, wanted: DatapathPlan, ports: ProxyPorts, before: World | None, world: World
    ) -> tuple[str, ...]:
        """The same with what of it Envoy need not know."""
        meanwhile = narrowed(self._datapath.current, wanted, (ports.http, ports.tls, ports.kafka))
        return self.sync(enforced, meanwhile, before, world)

    def plan(self, enforced: Enforced, world: World, ports: ProxyPorts) -> DatapathPlan:
        """What the kernel is to hold."""
        host = world.policy_of(world.host) if world.host is not None else None
        return self._planner.plan(enforced, world.ipcache, ports, host, self.closed)

    def has_ample_room(self, enforced: Enforced, world: World) -> bool:
        """True where `world` needs no counting."""
        policies = [*(policy for _, policy in enforced), *([world.policy_of(world.host)] if world.host else [])]
        addresses = len(world.ipcache) + sum(len(endpoint.ips) for endpoint, _ in enforced) + len(self.closed) + _CLOSED
        return self._datapath.has_ample_room(policies, addresses)

    def need(self, wanted: DatapathPlan) -> Need:
        """The entries that it takes in the maps."""
        return self._datapath.need(wanted)

    def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that an endpoint has a live connection with."""
        return self._datapath.busy(addresses)

    def readdress(self, changes: MapDelta[IPNetwork, Owner], before: World, after: World) -> tuple[str, ...]:
        """The owners alone, and who is over because of them."""
        self._handover.begins(self._datapath.current)
        self._datapath.readdress(changes)
        return self._end_carried(before, after)

    def attach(self, endpoints: Iterable[Endpoint]) -> tuple[str, ...]:
        """Programs at every local endpoint, and a sentence for each where there could be none."""
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

    def _end_carried(self, before: World | None, world: World) -> tuple[str, ...]:
        """What proxies carry for ends that are others' in `world`, now that the maps hold it; a sentence if it goes
        on."""
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
