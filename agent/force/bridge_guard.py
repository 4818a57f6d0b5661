"""Nobody is on a bridge of containers or pods but who is policed: whoever comes has a port that is mute until then.

The kernel holds that up, without an agent and without a race to be won. At the bridge itself only packets of endpoints
pass, up and down, and within the prefixes of its networks nobody has an address but endpoints and the node. By a port
that has no programs of an endpoint yet nothing comes in and nothing goes out, so neither do unknown ones reach
each other. While an agent runs such a port gets the programs at once.

And a process of the node that speaks for others, Docker's proxy of published ports, is no way round a policy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import reduce
from operator import or_

from ...policies.identity import IPNetwork
from ...redirect.bridge import Bridge, find_bridges
from ...redirect.datapath import Datapath
from ...redirect.errors import EndpointUnreachableError, RedirectError
from ...redirect.grace_period import expedited
from ...redirect.newcomers import Names, named_like
from ...redirect.program_links import Held
from ...store import ContainerNetwork

UNTOLD_SECONDS = 2.0  # an engine tells of a network within milliseconds


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a look at the bridges (or at pods that hang on none) found. `unknown` are interfaces of nobody who is known,
    with their bridges. `others`: other prefixes are closed than before, which the next plan has to tell the kernel.
    `notes`: what this kernel cannot do."""

    unknown: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    others: bool = False
    notes: tuple[str, ...] = ()

    def __add__(self, other: Guarded) -> Guarded:
        """Both."""
        return Guarded(
            self.unknown + other.unknown,
            self.problems + other.problems,
            self.others or other.others,
            self.notes + other.notes,
        )


class BridgeGuard:
    """Blocking, and for one thread at a time, as the data path is."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._holds = False  # the proxies of published ports
        self._idle = False  # nothing is guarded, and nothing is left of an earlier agent
        self._untold: dict[int, float] = {}  # bridges that no engine has told of, by ifindex: since when
        self._lacking = ""  # why newcomers are not held back: it is tried once
        self.closed: tuple[IPNetwork, ...] = ()  # in which nobody may be but endpoints and the node
        self.ports: frozenset[int] = frozenset()  # which are never without programs

    def sync(self, networks: Sequence[ContainerNetwork], known: Set[int], pods: Set[str] | None = None) -> Guarded:
        """Follows the bridges of these networks, and those of `pods` (None: none are to be guarded); `known` are the
        interfaces of endpoints. Raises RedirectError when nothing could be looked at."""
        guards = bool(networks) or pods is not None
        if not guards and self._idle:
            return Guarded()
        self._idle = False
        wanted = {network.bridge for network in networks} | (pods or set())
        names = reduce(or_, map(named_like, wanted), Names.PODS if pods is not None else Names.NONE)
        found = find_bridges(lambda name: name in wanted or bool(named_like(name) & names)) if guards else ()
        shared = {each.name: each.other_port for each in found if each.name in wanted and each.other_port}
        bridges = [each for each in found if each.name in wanted and not each.other_port]
        problems = [_shared(name, port, name in (pods or ())) for name, port in shared.items()]
        left, self.ports = self.ports, frozenset(port for bridge in bridges for port in bridge.ports)
        held = self._datapath.held()
        problems += self._attach(bridges, held)
        problems += self._hold_published(bool(networks))
        others = [each for each in found if each not in bridges]
        waiting = self._hold_newcomers(names if guards else None, bridges, others, left - self.ports - known)
        for ifindex in held.bridges - {bridge.ifindex for bridge in bridges}:
            self._datapath.detach_bridge(ifindex)
        for ifindex in left - self.ports - known:
            self._datapath.detach(ifindex)
        closed = [subnet for network in networks if network.bridge not in shared for subnet in network.subnets]
        before, self.closed = self.closed, tuple(dict.fromkeys(closed))
        unknown = [
            (name, bridge.name)
            for bridge in (*bridges, *waiting)
            for port, name in bridge.ports.items()
            if port not in known
        ]
        self._idle = not guards
        notes = (self._lacking,) if guards and self._lacking else ()
        return Guarded(tuple(unknown), tuple(problems), before != self.closed, notes)

    def _hold_newcomers(
        self, names: Names | None, guarded: Sequence[Bridge], others: Sequence[Bridge], leaving: Set[int]
    ) -> list[Bridge]:
        """Has the kernel keep frames from and to ports without programs, as those that are `leaving` are going to be.
        `names`: what else is guarded; None: nothing is. Returns which of the others still are because of their names,
        for an engine may have had no time to tell of them."""
        if names is None:
            self._datapath.strangers.free_newcomers()
        if names is None or self._lacking:
            return []
        try:
            newcomers = self._datapath.strangers.hold_newcomers()
            by_name = newcomers.by_name({each.ifindex: each.name for each in others if not each.other_port})
            now = time.monotonic()
            self._untold = {ifindex: self._untold.get(ifindex, now) for ifindex in by_name}
            young = {ifindex for ifindex, since in self._untold.items() if now - since < UNTOLD_SECONDS}
            newcomers.police(self._datapath.held().pods - leaving)
            newcomers.guard(
                {each.ifindex: each in guarded for each in (*guarded, *others) if each.ifindex not in young}, names
            )
        except RedirectError as error:
            self._lacking = (
                "of containers and pods that start while no agent runs, those on one bridge reach each other until the "
                f"next one comes: {error}"
            )
            return []
        return [each for each in others if each.ifindex in young]

    def _hold_published(self, wanted: bool) -> list[str]:
        if not wanted:
            self._datapath.free_published()
        elif not self._holds:
            try:
                self._datapath.hold_published()
            except RedirectError as error:
                return [f"published ports: who asks a proxy of Docker's for one is let in as the node: {error}"]
        self._holds = wanted
        return []

    def _attach(self, bridges: Sequence[Bridge], held: Held) -> list[str]:
        """Programs where there are none yet; a sentence for each place where there could be none."""
        problems = []
        new = [(bridge, port) for bridge in bridges for port in bridge.ports if port not in held.pods]
        if not new and all(bridge.ifindex in held.bridges for bridge in bridges):
            return []
        with expedited():
            for bridge in bridges:
                try:
                    self._datapath.attach_bridge(bridge.ifindex)
                except EndpointUnreachableError:
                    pass  # it went in this moment
                except RedirectError as error:
                    problems.append(f"bridge {bridge.name}: who is unknown on it is not cut off: {error}")
            for bridge, port in new:
                try:
                    self._datapath.attach_interface(port, bridge.ports[port])
                except RedirectError as error:
                    if port in find_ports(bridge.name):
                        problems.append(f"bridge {bridge.name}: port {bridge.ports[port]} is not policed: {error}")
        return problems


def _shared(bridge: str, port: str, pods: bool) -> str:
    whose, one = ("pods", "pod") if pods else ("a container engine", "container")
    return (
        f"bridge {bridge} of {whose} has a port that is no {one}'s ({port}), so {one}s on it are not cut off while "
        "they are unknown: give them a bridge of their own"
    )


def find_ports(name: str) -> Set[int]:
    """The ports that a bridge has now."""
    return {port for bridge in find_bridges(name.__eq__) for port in bridge.ports}
