"""The node's uplinks: interfaces of no endpoint through which others reach the node."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .device import undisturbed
from .errors import RoutingFailedError

_ETHERNET = 1  # ARPHRD_ETHER: the programs read an Ethernet header
_LOOPBACK = 1
_MAIN_TABLE = 254


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface of the node. `routed`: a route of the main table leads there, not only a link-local one."""

    ifindex: int
    name: str
    ethernet: bool = True
    routed: bool = True


@dataclass(frozen=True, slots=True)
class Uplinks:
    """Names by ifindex, and a sentence for each that was asked for and cannot be one."""

    names: dict[int, str]
    problems: tuple[str, ...] = ()


def interfaces() -> tuple[Interface, ...]:
    """Those of the current network namespace, without lo. Raises RoutingFailedError."""
    try:
        with IPRoute() as routes:
            links, routed = undisturbed(lambda: (list(routes.get_links()), set(_routed(routes))))
    except (OSError, NetlinkError) as error:
        raise RoutingFailedError(f"the node's interfaces and routes cannot be listed ({error}); run as root") from error
    return tuple(
        Interface(link["index"], str(link.get("ifname")), link["ifi_type"] == _ETHERNET, link["index"] in routed)
        for link in links
        if link["index"] != _LOOPBACK
    )


def choose(found: Iterable[Interface], endpoints: Set[int], named: Sequence[str] | None) -> Uplinks:
    """The uplinks among the node's interfaces: those that carry a route, or those that were named.

    `endpoints` are the interfaces of workloads, which are none. An interface without Ethernet headers (a tunnel) is
    none either: what arrives there at a pod with request rules is dropped.
    """
    free = [each for each in found if each.ifindex not in endpoints]
    if named is None:
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


def _routed(routes: IPRoute) -> Iterator[int]:
    for family in (socket.AF_INET, socket.AF_INET6):
        for route in routes.get_routes(family=family, table=_MAIN_TABLE):
            # The kernel makes fe80::/64 and ff00::/8 on every interface.
            if str(route.get("dst") or "").startswith(("fe80:", "ff00:")):
                continue
            if route.get("oif"):
                yield route.get("oif")
            for hop in route.get("multipath") or ():
                yield hop["oif"]
