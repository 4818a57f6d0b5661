"""The node's data path: programs at the endpoints' interfaces, maps with the plan, routes to Envoy.

Everything in the kernel hangs on pins below one folder and outlives the agent:

    PIN_DIR/maps/NAME                 the maps of bpf/maps.h
    PIN_DIR/links/IFINDEX-PROGRAM     one TCX link for each program of each endpoint, uplink and engine's bridge, and lo
    PIN_DIR/programs/NAME-DIGEST      the programs, so that the next agent need not compile

An agent that starts takes over what it finds: the programs behind the links are exchanged one by one, atomically, and
the maps stay as they are until the first `apply` says what has changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from ..policies.endpoint_policy import Direction, EndpointPolicy
from ..policies.identity import IPNetwork
from ..policies.workload import Endpoint, IPAddress
from . import layout, routing
from .connections import Concern, ConnectionMap
from .control_group import ControlGroups
from .errors import RedirectError
from .far_ends import FarEnds
from .kernel import bpffs, tcx
from .kernel.maps import CounterMap
from .kernel.tcx import BRIDGE_HOOKS, LOOPBACK_HOOKS, POD_HOOKS, TUNNEL_HOOKS, UPLINK_HOOKS, Hook
from .map_changes import NO_CHANGE, MapChanges, MapDelta, Table, diff
from .opening import DEFAULT_PIN_DIR, Opening
from .plan import DEFAULT_HTTP_PORT, DatapathPlan, Owner, is_group
from .plan_maps import Applied, PlanMaps
from .program_links import Held, ProgramLinks
from .proxy_sockets import Carried, carried, end_carried
from .published import free_published, hold_published
from .reason import Counter, Reason
from .revocation import end, revoked
from .room import Need
from .services import ServiceAddresses
from .strangers import Strangers

_LOOPBACK = 1  # interface number of lo in every namespace
_COUNTED = (Direction.EGRESS, Direction.INGRESS)  # enum hook in bpf/maps.h; uplinks count as to_pod


class Datapath:
    """Made by `Datapath.open(Opening(pin_dir))`. Methods block for milliseconds; call them from one thread at a time.

    Works in the network namespace of the calling thread, which must always be the same.
    """

    def __init__(
        self, pin_dir: Path, cache_dir: Path, lock: int, programs: Mapping[Hook, int], reset_port: int
    ) -> None:
        self._pin_dir = pin_dir
        self._cache_dir = cache_dir
        self._lock = lock
        self._programs = programs
        self._links = ProgramLinks(pin_dir / "links", programs)
        maps = pin_dir / "maps"
        self._maps = PlanMaps(maps, reset_port)
        self._counters = CounterMap(maps, layout.COUNTERS_NAME)
        self._connections = ConnectionMap(maps)
        self.strangers = Strangers(pin_dir, cache_dir)
        self._groups = ControlGroups(pin_dir, cache_dir)
        self._far_ends: FarEnds | None = None

    @classmethod
    def open(cls, begun: Opening, reset_port: int = DEFAULT_HTTP_PORT) -> Datapath:
        """Go on with what was begun: wait for the programs and take over the maps and links pinned there, if any.

        `reset_port` is one of Envoy's transparent listeners on loopback: it resets connections that are revoked.

        Raises:
            BpfUnsupportedError: the kernel or the caller's rights are not enough.
            ProgramRejectedError: the programs did not compile or load.
            RoutingFailedError: rules, routes or sysctls could not be set.
            PinConflictError: another version has put programs where this one knows none.
        """
        lock, programs = begun.take()
        try:
            datapath = cls(begun.pin_dir, begun.cache_dir, lock, programs, reset_port)
            if begun.host_routing:
                datapath._far_ends = FarEnds(begun.pin_dir / "maps")
                routing.tolerate_gaps()
            datapath._links.attach(_LOOPBACK, LOOPBACK_HOOKS)  # before a program may turn anything back
            datapath._links.take_over(datapath._learn, datapath._trust)
            datapath._groups.take_over()
            routing.install()
        except BaseException:
            for fd in (*programs.values(), lock):
                os.close(fd)
            raise
        return datapath

    def attach(self, endpoint: Endpoint) -> None:
        """Police the endpoint's interface, or its processes' sockets, from now on; until a plan names it, all its
        packets are dropped.

        Doing it twice is fine. Raises EndpointUnreachableError when the interface, or the control group, is gone.
        """
        if endpoint.workload.cgroup is not None:
            self._groups.attach(endpoint.ifindex, endpoint.workload.cgroup)
        else:
            self.attach_interface(endpoint.ifindex, endpoint.interface)

    def attach_interface(self, ifindex: int, interface: str) -> None:
        """`attach` for the interface of an endpoint that is still to come."""
        if self._links.has(ifindex, POD_HOOKS):
            return
        if interface:
            routing.install_interface(interface)
        try:
            # An unknown pod's interface may have been taken for an uplink, whose program would come first.
            self.detach_uplink(ifindex)
            if self._far_ends is not None:
                routing.tolerate_gaps()  # there may be a firewall meanwhile
                self._far_ends.learn(ifindex)
            self._links.attach(ifindex, POD_HOOKS)
            self.strangers.police(ifindex)
            routing.trust_sources(ifindex)
        except RedirectError:
            self.detach(ifindex)
            raise

    def detach(self, ifindex: int) -> None:
        """Stop policing an interface or a control group; its traffic flows freely, or it is gone. Unknown ones are
        fine."""
        if is_group(ifindex):
            self._groups.detach(ifindex)
            return
        self.strangers.leave(ifindex)
        routing.check_sources(ifindex)
        if self._far_ends is not None:
            self._far_ends.forget(ifindex)
        self._links.detach(ifindex, POD_HOOKS)

    def attached(self) -> frozenset[int]:
        """Interfaces and control groups that both of their programs police. Links of those that are gone are taken
        away."""
        return self.held().pods | self.groups()

    def touched(self) -> frozenset[int]:
        """These, and those that only one of the programs polices: nothing passes it."""
        held = self.held()
        return held.pods | held.begun | self._groups.touched()

    def groups(self) -> frozenset[int]:
        """The control groups among these."""
        return self._groups.attached()

    def attach_uplink(self, ifindex: int, *, ethernet: bool = True) -> None:
        """Hand what arrives there for endpoints to Envoy where an L7 rule says so, and police the node itself there.

        Without it such requests are dropped, and the node's policies do not hold. `ethernet`: frames have such headers.

        Doing it twice is fine. Raises EndpointUnreachableError when the interface is gone.
        """
        self._links.attach(ifindex, UPLINK_HOOKS if ethernet else TUNNEL_HOOKS)

    def detach_uplink(self, ifindex: int) -> None:
        """An uplink no more. Unknown ones are fine."""
        self._links.detach(ifindex, UPLINK_HOOKS + TUNNEL_HOOKS)

    def attach_bridge(self, ifindex: int) -> None:
        """From now on only endpoints send and receive beyond this bridge.

        Doing it twice is fine. Raises EndpointUnreachableError when the interface is gone.
        """
        self._links.attach(ifindex, BRIDGE_HOOKS)

    def detach_bridge(self, ifindex: int) -> None:
        """A bridge like any other. Unknown ones are fine."""
        self._links.detach(ifindex, BRIDGE_HOOKS)

    def hold_published(self) -> None:
        """Docker's proxies of published ports count as anybody from now on. Raises as `open`."""
        hold_published(self._pin_dir, self._cache_dir)

    def free_published(self) -> None:
        """They count as the node, which they are."""
        free_published(self._pin_dir)

    def far_ends(self) -> frozenset[int] | None:
        """Interfaces whose pods may get packets straight from other pods; None without host routing."""
        return self._far_ends.known() if self._far_ends is not None else None

    def uplinks(self) -> frozenset[int]:
        """Interfaces that count as uplinks. Links of interfaces that are gone are taken away."""
        return self.held().uplinks

    def held(self) -> Held:
        """All of them. Links of interfaces that are gone are taken away."""
        return self._links.held()

    def keep_pins(self) -> bool:
        """Pin everything anew where the pin folder is gone, as when somebody has unmounted the BPF file system: without
        that all would end with this process. True when it was."""
        if bpffs.is_where_it_was(self._pin_dir, self._lock):
            return False
        before, self._lock = self._lock, bpffs.carry_over(self._lock, self._pin_dir)
        os.close(before)
        return True

    @property
    def redirecting(self) -> bool:
        """False when no endpoint has a policy in the maps, as before the first plan: nothing is redirected then."""
        return self._maps.has_endpoints()

    def apply(self, wanted: DatapathPlan) -> Applied:
        """Make the maps hold `wanted`, in the order of `MapChanges.writes`, then a revision that has live connections
        judged anew.

        A packet sees an endpoint's old policy or its new one, never a mixture. The ends of TCP connections that are not
        allowed any more (or not past Envoy) are told at once, those of others notice nothing. Fails half-way without
        harm: calling it again converges. Raises MapFullError.
        """
        current = self.current
        changes = diff(current, wanted)
        applied = self._maps.change(changes, wanted)
        if not changes.endpoints and not changes.ipcache:
            return applied
        over = revoked(self._connections.live(Concern.of(changes)), wanted)
        end(over)
        return replace(applied, revoked=len(over))

    def need(self, wanted: DatapathPlan) -> Need:
        """What `apply` would take."""
        return self._maps.need(wanted)

    def has_ample_room(self, policies: Sequence[EndpointPolicy], addresses: int) -> bool:
        """True where endpoints with these policies, and so many addresses, have room without being counted."""
        return self._maps.has_ample_room(policies, addresses)

    @property
    def room(self) -> Mapping[Table, int]:
        """How many entries each map can hold."""
        return self._maps.room

    def readdress(self, owners: MapDelta[IPNetwork, Owner]) -> Applied:
        """Change owners of addresses and nothing else, at a cost that does not grow with the policies.

        As careful as `apply`. Raises MapFullError.
        """
        current = self.current
        ipcache = {**current.ipcache, **owners.put}
        for network in owners.gone:
            ipcache.pop(network, None)
        return self._maps.change(MapChanges(NO_CHANGE, NO_CHANGE, owners), replace(current, ipcache=ipcache))

    def envoy_asks_makers(self) -> None:
        """The Envoy that runs is of this version, and the one before accepts nothing any more: it may have clients that
        were given the node's address. An earlier version would take them for the node. From any thread."""
        self._maps.envoy_asks_makers()

    def services(self) -> ServiceAddresses:
        """Those of this pin folder, to be closed before the data path."""
        return ServiceAddresses(self._pin_dir, self._cache_dir)

    def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that an endpoint has a live connection with."""
        return self._connections.busy(addresses)

    def carried(self) -> tuple[Carried, ...]:
        """What this node's proxies carry. Raises OSError."""
        return carried()

    def made_by(self, connections: Iterable[Carried]) -> dict[Carried, tuple[int, int]]:
        """The identities of client and server with which each was made, of those of which the kernel knows."""
        known = ((each, self._connections.made_by(*each.ends)) for each in connections)
        return {each: made for each, made in known if made is not None}

    def end_carried(self, connections: Iterable[Carried]) -> int:
        """Reset these; how many there still were. Raises BpfUnsupportedError, OSError."""
        return end_carried(connections)

    @property
    def current(self) -> DatapathPlan:
        """What the maps hold."""
        return self._maps.current

    @property
    def ipcache(self) -> tuple[Path, int, int]:
        """The pin of the map from addresses to identities, and the kernel's numbers of the map behind it and of the one
        that holds its generation, which is pinned beside it."""
        return self._pin_dir / "maps" / layout.IPCACHE.name, self._maps.ipcache.id, self._maps.ipcache.generation.id

    def counters(self) -> tuple[Counter, ...]:
        """Packet counts since the maps were made."""
        kinds = [(reason, number, direction) for reason in Reason for number, direction in enumerate(_COUNTED)]
        sums = self._counters.read(2 * reason + number for reason, number, _ in kinds)
        return tuple(
            Counter(direction, reason, packets) for (reason, _, direction), packets in zip(kinds, sums, strict=True)
        )

    def sizes(self) -> dict[str, int]:
        """Entries by map."""
        current = self.current
        return {
            "policy": len(current.policy),
            "endpoints": len(current.endpoints),
            "ipcache": len(current.ipcache),
        }

    def close(self) -> None:
        """Let go of everything and leave the kernel enforcing."""
        self._maps.close()
        self._counters.close()
        self._connections.close()
        if self._far_ends is not None:
            self._far_ends.close()
        self.strangers.close()
        self._groups.close()
        for fd in (*self._programs.values(), self._lock):
            os.close(fd)

    def remove(self) -> None:
        """Take everything away (links first: traffic flows freely from then on) and close."""
        self.close()
        Datapath.remove_pinned(self._pin_dir)

    @staticmethod
    def remove_pinned(pin_dir: Path = DEFAULT_PIN_DIR) -> None:
        """Take away what an agent left behind: links, maps, and the rules and routes of this network namespace.

        Raises PinConflictError when an agent still uses them.
        """
        if pin_dir.is_dir() and bpffs.is_bpffs(pin_dir):
            lock = bpffs.lock(pin_dir)
            try:
                Strangers.remove_pinned(pin_dir)  # before what has frames let through
                for path in (pin_dir / "links").glob(f"*-{Hook.FROM_POD.program}"):
                    routing.check_sources(tcx.interface_of(path))
                bpffs.remove_folder(pin_dir / "links")
                ServiceAddresses.remove_pinned(pin_dir)
                ControlGroups.remove_pinned(pin_dir)
                free_published(pin_dir)
                bpffs.remove_folder(pin_dir)
            finally:
                os.close(lock)
        routing.remove()

    def _learn(self, ifindex: int, hook: Hook) -> None:
        """Before the program there may hand packets over."""
        if self._far_ends is not None and hook is Hook.TO_POD:
            self._far_ends.learn(ifindex)

    def _trust(self, ifindex: int, hook: Hook) -> None:
        """Once the program there judges sources."""
        if hook is Hook.FROM_POD:
            routing.trust_sources(ifindex)
