"""Nobody is on an engine's bridge but containers that are policed: whoever comes has a port that is mute until then.

Two things hold that up, both in the kernel. At the bridge itself only packets of endpoints pass, up and down, and
within the prefixes of its networks nobody has an address but endpoints and the node: that needs no agent, and no race
to be won. And a port that comes while an agent runs gets the programs of an endpoint at once, before the process of its
container begins: then it does not reach other unknown ones on its bridge either.

And a process of the node that speaks for others, Docker's proxy of published ports, is no way round a policy.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from ...policies.identity import IPNetwork
from ...redirect.bridge import Bridge, find_bridges
from ...redirect.datapath import Datapath, Held
from ...redirect.errors import EndpointUnreachableError, RedirectError
from ...redirect.grace_period import expedited
from ...store import ContainerNetwork


@dataclass(frozen=True, slots=True)
class Guarded:
    """What a look at the bridges found. `unknown` are ports of nobody who is known, with their bridges. `others`: other
    prefixes are closed than before, which the next plan has to tell the kernel."""

    unknown: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    others: bool = False


class BridgeGuard:
    """Blocking, and for one thread at a time, as the data path is."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._holds = False  # the proxies of published ports
        self._idle = False  # nothing is guarded, and nothing is left of an earlier agent
        self.closed: tuple[IPNetwork, ...] = ()  # in which nobody may be but endpoints and the node
        self.ports: frozenset[int] = frozenset()  # which are never without programs

    def sync(self, networks: Sequence[ContainerNetwork], known: Set[int]) -> Guarded:
        """Follows the bridges of these networks; `known` are the interfaces of endpoints. Raises RedirectError when
        nothing could be looked at."""
        if not networks and self._idle:
            return Guarded()
        self._idle = False
        found = find_bridges({network.bridge for network in networks})
        shared = {bridge.name: bridge.other_port for bridge in found if bridge.other_port}
        bridges = [bridge for bridge in found if not bridge.other_port]
        problems = [
            f"bridge {name} of a container engine has a port that is no container's ({port}), so containers on it are "
            "not cut off while they are unknown: give them a bridge of their own"
            for name, port in shared.items()
        ]
        left, self.ports = self.ports, frozenset(port for bridge in bridges for port in bridge.ports)
        held = self._datapath.held()
        problems += self._attach(bridges, held)
        problems += self._hold_published(bool(networks))
        for ifindex in held.bridges - {bridge.ifindex for bridge in bridges}:
            self._datapath.detach_bridge(ifindex)
        for ifindex in left - self.ports - known:
            self._datapath.detach(ifindex)
        closed = [subnet for network in networks if network.bridge not in shared for subnet in network.subnets]
        before, self.closed = self.closed, tuple(dict.fromkeys(closed))
        unknown = [
            (name, bridge.name) for bridge in bridges for port, name in bridge.ports.items() if port not in known
        ]
        self._idle = not networks
        return Guarded(tuple(unknown), tuple(problems), before != self.closed)

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
                    problems.append(f"bridge {bridge.name}: unknown containers on it are not cut off: {error}")
            for bridge, port in new:
                try:
                    self._datapath.attach_interface(port, bridge.ports[port])
                except RedirectError as error:
                    if port in find_ports(bridge.name):
                        problems.append(f"bridge {bridge.name}: port {bridge.ports[port]} is not policed: {error}")
        return problems


def find_ports(name: str) -> Set[int]:
    """The ports that a bridge has now."""
    return {port for bridge in find_bridges({name}) for port in bridge.ports}
