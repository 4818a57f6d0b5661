"""The bridges of containers and pods, and what hangs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .device import undisturbed
from .errors import RoutingFailedError

BRIDGE, VETH = "bridge", "veth"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A Linux bridge of the node. `ports` are the names of its veths by ifindex; `other_port` is one that is no veth,
    such as a network card: then whole networks may be behind it."""

    ifindex: int
    name: str
    ports: Mapping[int, str]
    other_port: str = ""


def find_bridges(wanted: Callable[[str], bool]) -> tuple[Bridge, ...]:
    """Those of the current network namespace whose names are wanted. Raises RoutingFailedError."""
    try:
        with IPRoute() as routes:
            links = undisturbed(lambda: list(routes.get_links()))
    except (OSError, NetlinkError) as error:
        raise RoutingFailedError(f"the node's bridges cannot be listed ({error}); run as root") from error
    return tuple(_bridges(links, wanted))


def _bridges(links: list[Any], wanted: Callable[[str], bool]) -> Iterator[Bridge]:
    for link in links:
        if kind_of(link) == BRIDGE and wanted(str(link.get("ifname"))):
            ports = [each for each in links if each.get("master") == link["index"]]
            others = [str(port.get("ifname")) for port in ports if kind_of(port) != VETH]
            veths = {port["index"]: str(port.get("ifname")) for port in ports if kind_of(port) == VETH}
            yield Bridge(link["index"], str(link.get("ifname")), veths, others[0] if others else "")


def kind_of(link: Any) -> str:
    """Of an interface, as the kernel calls it; empty for a card."""
    info = link.get("linkinfo")
    return str(info.get("kind") or "") if info is not None else ""
