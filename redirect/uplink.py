"""The node's uplinks: interfaces of no endpoint through which others reach the node."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from ipaddress import ip_network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ..policies.identity import IPNetwork
from .bridge import VETH, kind_of
from .device import undisturbed
from .errors import RoutingFailedError
from .planner import lies_in

_ETHERNET = 1  # ARPHRD_ETHER: frames have an Ethernet header
_LOOPBACK = 1
_LOCAL_TABLE = 255
_UNICAST = 1  # RTN_UNICAST
_VRF = "vrf"
# What comes in there goes to a process as a frame, or comes from the node itself.
_NO_WAY_IN = ("macvtap", "ipvtap", _VRF)
_ANY: Mapping[int, IPNetwork] = {
    socket.AF_INET: ip_network("0.0.0.0/0"),
    socket.AF_INET6: ip_network("::/0"),
}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the node. `ethernet`: frames have such headers. `routed`: a route of any table leads there, not
    only a link-local one; `routes` is where these lead. `kind`: as the kernel calls it, empty for a card. `master`: the
    interface that it is a part of (a bridge, bond, VRF), or 0."""

    ifindex: int
    name: str
    ethernet: bool = True
    routed: bool = True
    routes: tuple[IPNetwork, ...] = ()
    kind: str = ""
    master: int = 0

    def leads_to(self, prefixes: Collection[IPNetwork]) -> bool:
        """True for one whose routes all lead into these prefixes, or that has none."""
        return all(lies_in(route, prefixes) for route in self.routes)


@dataclass(frozen=True, slots=True)
class Uplinks:
    """Those that were chosen, and a sentence for each that was asked for and cannot be one."""

    chosen: tuple[Interface, ...]
    problems: tuple[str, ...] = ()

    @property
    def names(self) -> dict[int, str]:
        """By ifindex."""
        return {each.ifindex: each.name for each in self.chosen}


def interfaces() -> tuple[Interface, ...]:
    """Those of the current network namespace, without lo. Raises RoutingFailedError."""
    try:
        with IPRoute() as routes:
            links, routed = undisturbed(lambda: (list(routes.get_links()), list(_routed(routes))))
    except (OSError, NetlinkError) as error:
        raise RoutingFailedError(f"the node's interfaces and routes cannot be listed ({error}); run as root") from error
    leading: dict[int, list[IPNetwork]] = {}
    for ifindex, network in routed:
        leading.setdefault(ifindex, []).append(network)
    return tuple(
        Interface(
            link["index"],
            str(link.get("ifname")),
            link["ifi_type"] == _ETHERNET,
            link["index"] in leading,
            tuple(leading.get(link["index"], ())),
            kind_of(link),
            link.get("master") or 0,
        )
        for link in links
        if link["index"] != _LOOPBACK
    )


def choose(
    found: Sequence[Interface], endpoints: Set[int], named: Sequence[str] | None, pods: Collection[IPNetwork] = ()
) -> Uplinks:
    """The uplinks among the node's interfaces: all by which a packet can come in, or those that were named.

    The kernel takes up what is for the node by any interface, whether it has an address and a route or not
    (https://www.rfc-editor.org/rfc/rfc1122#section-3.3.4.2, the weak model). So all are uplinks but
    - `endpoints`, the interfaces of workloads, and a veth that leads only into the prefixes of `pods`, or nowhere when
      there are such: it is a pod's, known or not;
    - the parts of a bridge or bond without a route, which has up what comes in there.
    """
    free = [each for each in found if each.ifindex not in endpoints]
    if named is None:
        of_vrf = {0, *(each.ifindex for each in found if each.kind == _VRF)}
        return Uplinks(tuple(each for each in free if _lets_in(each, of_vrf, pods)))
    by_name = {each.name: each for each in free}
    problems = tuple(
        f"uplink {name} is no interface of this node (or a workload's): correct uplinks in --config"
        for name in named
        if name not in by_name
    )
    return Uplinks(tuple(by_name[name] for name in named if name in by_name), problems)


def _lets_in(interface: Interface, masters: Set[int], pods: Collection[IPNetwork]) -> bool:
    """`masters`: with one of these, or none (0), it is itself that has up what comes in."""
    if interface.kind in _NO_WAY_IN:
        return False
    if interface.kind == VETH and pods and interface.leads_to(pods):
        return False
    return interface.routed or interface.master in masters


def _routed(routes: IPRoute) -> Iterator[tuple[int, IPNetwork]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in routes.get_routes(family=family):
            destination = str(route.get("dst") or "")
            # The kernel makes fe80::/64 and ff00::/8 on every interface.
            if destination.startswith(("fe80:", "ff00:")) or route["type"] != _UNICAST:
                continue
            if (route.get("table") or route["table"]) == _LOCAL_TABLE:
                continue
            network = ip_network((destination, route["dst_len"])) if destination else _ANY[family]
            if route.get("oif"):
                yield route.get("oif"), network
            for hop in route.get("multipath") or ():
                yield hop["oif"], network
