"""The node's uplinks: interfaces of no endpoint through which others reach the node."""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from ipaddress import ip_network

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ..policies.identity import IPNetwork
from .bridge import VETH, kind_of
from .device import undisturbed
from .errors import RoutingFailedError
from .plan import lies_in

_ETHERNET = 1  # ARPHRD_ETHER: the programs read an Ethernet header
_LOOPBACK = 1
_MAIN_TABLE = 254
_ANY: Mapping[int, IPNetwork] = {
    socket.AF_INET: ip_network("0.0.0.0/0"),
    socket.AF_INET6: ip_network("::/0"),
}


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the node. `routed`: a route of the main table leads there, not only a link-local one; `routes` is
    where these lead. `kind`: as the kernel calls it, empty for a card. `master`: the bridge that it is at, or 0."""

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
    """Names by ifindex, and a sentence for each that was asked for and cannot be one."""

    names: dict[int, str]
    problems: tuple[str, ...] = ()


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
    found: Iterable[Interface], endpoints: Set[int], named: Sequence[str] | None, pods: Collection[IPNetwork] = ()
) -> Uplinks:
    """The uplinks among the node's interfaces: those that carry a route, or those that were named. A veth that leads
    only into the prefixes of `pods` is a pod's, known or not.

    `endpoints` are the interfaces of workloads, which are none. An interface without Ethernet headers (a tunnel) is
    none either: what arrives there at a pod with request rules is dropped.
    """
    free = [each for each in found if each.ifindex not in endpoints]
    if named is None:
        free = [each for each in free if each.kind != VETH or not pods or not each.leads_to(pods)]
        return Uplinks({each.ifindex: each.name for each in free if each.routed and each.ethernet})
    by_name = {each.name: each for each in free}
    problems = []
    for name in named:
        if name not in by_name:
            problems.append(
                f"uplink {name} is no interface of this node (or a workload's): correct uplinks in --config"
            )
        elif not by_name[name].ethernet:
            problems.append(f"uplink {name} has no Ethernet headers: requests that arrive there are dropped")
    chosen = [by_name[name] for name in named if name in by_name and by_name[name].ethernet]
    return Uplinks({each.ifindex: each.name for each in chosen}, tuple(problems))


def _routed(routes: IPRoute) -> Iterator[tuple[int, IPNetwork]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in routes.get_routes(family=family, table=_MAIN_TABLE):
            destination = str(route.get("dst") or "")
            # The kernel makes fe80::/64 and ff00::/8 on every interface.
            if destination.startswith(("fe80:", "ff00:")):
                continue
            network = ip_network((destination, route["dst_len"])) if destination else _ANY[family]
            if route.get("oif"):
                yield route.get("oif"), network
            for hop in route.get("multipath") or ():
                yield hop["oif"], network
