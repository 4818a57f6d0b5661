"""Pods of this node that are not known are cut off, whatever connects them.

The kernel holds that up, without an agent: a packet that comes in by a veth or a bridge without programs of ours goes
no further if it is a pod's by its source or by what the interface is called, and none goes out to a pod by such a one.
Pods on a bridge have ports besides, which `bridge_guard` makes mute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

from ...policies.identity import IPNetwork
from ...policies.workload import Endpoint
from ...redirect.bridge import BRIDGE, VETH
from ...redirect.datapath import Datapath
from ...redirect.errors import RedirectError
from ...redirect.newcomers import Names, named_like
from ...redirect.unseen import OF_PLUGINS, PodName, Unseen, learned
from ...redirect.uplink import Interface
from ...store import PodNetwork
from .bridge_guard import Guarded

_LOOPBACK = 1
_NOWHERE = (
    "pods of this node are not cut off before they are seen, as the cluster has set no podCIDRs aside for it: write "
    "the prefixes of pods as in 'kubernetes: {pod_prefixes: [10.244.0.0/16]}'"
)


@dataclass(frozen=True, slots=True)
class CutOff:
    """Who is cut off, by addresses and by names of interfaces, and how many packets were dropped because of it; None:
    the rules that do it are not there."""

    prefixes: tuple[str, ...]
    interfaces: tuple[str, ...]
    dropped: int | None

    @classmethod
    def of(cls, unseen: Unseen) -> CutOff:
        """What the kernel has."""
        return cls(
            tuple(sorted(map(str, unseen.prefixes()))), tuple(sorted(map(str, unseen.names()))), unseen.dropped()
        )


class PodGuard:
    """Blocking, and for one thread at a time, as the data path is."""

    def __init__(self, datapath: Datapath) -> None:
        self._datapath = datapath
        self._idle = False  # nothing is guarded, and nothing is left of an earlier agent
        self._lacking = ""  # why nothing can be: it is tried once
        self.network: PodNetwork | None = None

    @property
    def closed(self) -> tuple[IPNetwork, ...]:
        """In which nobody may be but endpoints and the node."""
        return self.network.own if self.network is not None else ()

    def sync(
        self, network: PodNetwork | None, found: Sequence[Interface], endpoints: Sequence[Endpoint], bridges: Set[int]
    ) -> Guarded:
        """Follows the node's interfaces; `bridges` are those whose ports are mute. Raises RedirectError."""
        before, self.network = self.closed, network
        others = before != self.closed
        if network is None:
            if not self._idle:
                self._datapath.strangers.free_unseen()
            self._idle = True
            return Guarded(others=others)
        self._idle = False
        if self._lacking:
            return Guarded(others=others, notes=(self._lacking,))
        try:
            unseen = self._datapath.strangers.hold_unseen()
            names = pod_names(network, found, endpoints) | (unseen.names() - OF_PLUGINS)
            policed = self._datapath.held().pods
            seen = policed | nobodys(network, found, names, bridges)
            unseen.guard(network.prefixes, names | OF_PLUGINS, seen)
        except RedirectError as error:
            self._lacking = f"pods that start while no agent runs are not cut off until the next one has come: {error}"
            return Guarded(others=others, notes=(self._lacking,))
        unknown = [(each.name, "") for each in lonely(network, found, names) if each.ifindex not in policed]
        return Guarded(tuple(unknown), (), others, () if network.prefixes else (_NOWHERE,))


def pod_bridges(network: PodNetwork, found: Sequence[Interface], endpoints: Iterable[Endpoint]) -> frozenset[str]:
    """The bridges that pods hang on: by a pod that does, by where its routes lead, or by its name."""
    below = {endpoint.ifindex for endpoint in endpoints if _is_pod(endpoint, network)}
    masters = {each.master for each in found if each.ifindex in below}
    return frozenset(
        each.name
        for each in found
        if each.kind == BRIDGE
        and (each.ifindex in masters or named_like(each.name) is Names.PODS or _leads_to_pods(each, network))
    )


def pod_names(network: PodNetwork, found: Sequence[Interface], endpoints: Iterable[Endpoint]) -> frozenset[PodName]:
    """What the interfaces of pods that hang on no bridge are called, by those of the pods that are known and by what
    somebody has said."""
    alone = {each.ifindex for each in found if each.kind == VETH and not each.master}
    names = {
        learned(endpoint.interface)
        for endpoint in endpoints
        if endpoint.ifindex in alone and _is_pod(endpoint, network)
    }
    return frozenset({each for each in names if each is not None} | {PodName(each) for each in network.interfaces})


def lonely(network: PodNetwork, found: Iterable[Interface], names: Iterable[PodName]) -> list[Interface]:
    """The interfaces that are pods' and hang on no bridge, known or not."""
    called = tuple(names)
    return [
        each
        for each in found
        if each.kind == VETH
        and not each.master
        and (any(name.covers(each.name) for name in called) or _leads_to_pods(each, network))
    ]


def nobodys(
    network: PodNetwork, found: Sequence[Interface], names: Iterable[PodName], bridges: Set[int]
) -> frozenset[int]:
    """The interfaces that are no pod's, whatever comes by them (a wide prefix holds pods of other nodes too), and the
    bridges that are looked after."""
    pods = {each.ifindex for each in lonely(network, found, names)}
    shared = {each.master for each in found if each.master and each.kind != VETH}
    return frozenset(
        {_LOOPBACK, *bridges, *shared}
        | {
            each.ifindex
            for each in found
            if each.kind not in (VETH, BRIDGE)
            or (each.ifindex not in pods and not each.master and not each.leads_to(network.prefixes))
        }
    )


def _leads_to_pods(interface: Interface, network: PodNetwork) -> bool:
    return bool(interface.routes) and interface.leads_to(network.prefixes)


def _is_pod(endpoint: Endpoint, network: PodNetwork) -> bool:
    return any(ip in prefix for ip in endpoint.ips for prefix in network.prefixes)
