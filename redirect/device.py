"""Where a workload hangs on this node: from a namespace, a process or an interface to the node's side of its veth."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from ..policies.workload import IPAddress, Workload
from . import control_group
from .errors import EndpointUnreachableError, NamespaceGoneError, NotSeenError
from .kernel import netns

_MAIN_TABLE = 254
_LOCAL_TABLE = 255
_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST = 2, 3, 4  # include/uapi/linux/rtnetlink.h
_TAKEN_UP = (_RTN_LOCAL, _RTN_BROADCAST, _RTN_ANYCAST)
_OWN = Path("/proc/thread-self/ns/net")
_LOOKS = 5  # at a list that keeps changing
_VANISHED = (errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EINVAL)
_WHOLE_ADDRESS = {socket.AF_INET: 32, socket.AF_INET6: 128}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Device:
    """The node's side of a workload's veth, and the workload's addresses (without link-local ones). Of processes of the
    node the number of their control group, without a name and addresses."""

    ifindex: int
    interface: str
    ips: tuple[IPAddress, ...]


def find_device(workload: Workload) -> Device:
    """Look the workload up in the current network namespace (the node's).

    Raises:
        NamespaceGoneError: its namespace, process or interface does not exist.
        NotSeenError: whether it does cannot be told.
        EndpointUnreachableError: it exists, but no veth of it leads here.
    """
    with looking() as find:
        return find(workload)


@contextmanager
def looking() -> Iterator[Callable[[Workload], Device]]:
    """`find_device` for many workloads, which asks the kernel for them by one socket. For one thread."""
    with asking() as routes:
        yield lambda workload: _look_up(routes, workload)


@contextmanager
def asking() -> Iterator[IPRoute]:
    """The kernel's list of interfaces, addresses and routes, here. Raises NotSeenError."""
    try:
        with IPRoute() as routes:
            yield routes
    except (OSError, NetlinkError) as error:
        raise NotSeenError(
            f"the node's interfaces cannot be looked at ({error}); what is known of them holds meanwhile"
        ) from error


def _look_up(routes: IPRoute, workload: Workload) -> Device:
    try:
        return undisturbed(lambda: _find(routes, workload))
    except (OSError, NetlinkError) as error:
        code = error.code if isinstance(error, NetlinkError) else error.errno
        if code in _VANISHED:  # it comes or goes in this moment: its files and links vanish between two looks
            raise NamespaceGoneError(
                f"it cannot be looked at ({error}); start the workload again if it is gone"
            ) from error
        raise NotSeenError(f"it cannot be looked at ({error}); what is known of it holds meanwhile") from error


def _find(routes: IPRoute, workload: Workload) -> Device:
    if workload.cgroup is not None:
        return Device(control_group.number_of(workload.cgroup), "", ())
    if workload.interface is not None:
        return _by_interface(routes, workload.interface)
    if workload.netns is not None:
        return _by_namespace(routes, netns.named(workload.netns), f"network namespace {workload.netns}", workload.ips)
    if workload.pid is not None:
        return _by_namespace(routes, netns.of_process(workload.pid), f"process {workload.pid}", workload.ips)
    raise EndpointUnreachableError(
        f"workload {workload.key} names no netns, pid, interface or cgroup, so it is not on this node; "
        "add one to enforce it"
    )


@dataclass(frozen=True, slots=True)
class NodeAddresses:
    """`ips` are all by which a network namespace is reached, and which so belong to the host: its own, and what it
    takes up besides (broadcast, IPv6 anycast, local routes to one address). `broadcast` are those of them that stand
    for a whole link: what the host itself sends there goes to the others."""

    ips: tuple[IPAddress, ...]
    broadcast: frozenset[IPAddress]


def node_addresses() -> NodeAddresses:
    """Of the current network namespace. Raises NotSeenError."""
    with asking() as routes:
        addresses = undisturbed(lambda: list(routes.get_addr()))
        own = [ip for item in addresses if (ip := _own_address(item)) is not None]
        taken_up = undisturbed(lambda: list(_taken_up(routes)))
    broadcast = frozenset(ip for ip, kind in taken_up if kind == _RTN_BROADCAST)
    return NodeAddresses(tuple(dict.fromkeys((*own, *(ip for ip, _ in taken_up)))), broadcast)


def _taken_up(routes: IPRoute) -> Iterator[tuple[IPAddress, int]]:
    """With the kind of route. Loopback's and multicast are nobody's."""
    for family, longest in _WHOLE_ADDRESS.items():
        for route in routes.get_routes(family=family, table=_LOCAL_TABLE):
            if route["type"] in _TAKEN_UP and route["dst_len"] == longest and route.get("dst"):
                ip = ip_address(route.get("dst"))
                if not ip.is_loopback and not ip.is_multicast:
                    yield ip, route["type"]


def _own_address(item: Any) -> IPAddress | None:
    """Of a point-to-point link the kernel calls the other end's `address` (include/uapi/linux/if_addr.h)."""
    text = item.get("local") or item.get("address")
    return ip_address(text) if text else None


def undisturbed(look: Callable[[], T]) -> T:
    """What `look` finds. The kernel tells when its list changed while it was read: then it is read again."""
    for _ in range(_LOOKS):
        with suppress(NetlinkDumpInterrupted):
            return look()
    return look()


@dataclass(frozen=True, slots=True)
class _Veth:
    ifindex: int
    peer: int  # the other end's ifindex, in the namespace it is in
    name: str
    ips: tuple[IPAddress, ...]


def _by_namespace(routes: IPRoute, path: Path, what: str, wanted: tuple[IPAddress, ...]) -> Device:
    """Of several veths the one with an address of the workload's, else eth0."""
    if netns.cookie(path) == netns.cookie(_OWN):
        raise EndpointUnreachableError(
            f"{what} shares the node's own network; only workloads with a network of their own are enforced"
        )
    veths, ips = netns.run_in(path, _look_around)
    if not veths:
        raise EndpointUnreachableError(f"{what} has no veth; connect it to the node with one, or give `interface`")
    veths.sort(key=lambda veth: (veth.name != "eth0", veth.ifindex))
    veths.sort(key=lambda veth: not any(ip in wanted for ip in veth.ips))
    with path.open("rb") as namespace:
        for veth in veths:
            link = _link(routes, veth.peer)
            # The other end's number may mean another interface here: both must point at each other.
            if link is None or link.get("link") != veth.ifindex:
                continue
            if link.get("link_netnsid") == routes.get_netnsid(fd=namespace.fileno())["nsid"]:
                return Device(veth.peer, str(link.get("ifname")), ips)
    raise EndpointUnreachableError(
        f"the veth of {what} does not end in this node's network namespace; run the agent where the other end is"
    )


def _look_around() -> tuple[list[_Veth], tuple[IPAddress, ...]]:
    """In the workload's namespace: its veths and its addresses."""
    with IPRoute() as routes:
        links = [link for link in routes.get_links() if _kind(link) == "veth" and link.get("link") is not None]
        found = [(item["index"], _own_address(item)) for item in routes.get_addr()]
    addresses = [(index, ip) for index, ip in found if ip is not None and not ip.is_loopback and not ip.is_link_local]
    veths = [
        _Veth(
            link["index"],
            link.get("link"),
            str(link.get("ifname")),
            tuple(ip for index, ip in addresses if index == link["index"]),
        )
        for link in links
    ]
    return veths, tuple(ip for _, ip in addresses)


def _by_interface(routes: IPRoute, name: str) -> Device:
    """The addresses are those that the node routes to the interface, one by one (as CNIs without a bridge do)."""
    found = routes.link_lookup(ifname=name)
    if not found:
        raise NamespaceGoneError(
            f"interface {name} does not exist on this node; name the node's side of the workload's veth"
        )
    link = _link(routes, found[0])
    if link is None or _kind(link) != "veth":
        raise EndpointUnreachableError(f"interface {name} is not a veth; name the node's side of a workload's veth")
    return Device(found[0], name, tuple(_routed_to(routes, found[0])))


def _routed_to(routes: IPRoute, ifindex: int) -> Iterator[IPAddress]:
    for family, longest in _WHOLE_ADDRESS.items():
        for route in routes.get_routes(family=family, oif=ifindex, table=_MAIN_TABLE):
            if route.get("oif") == ifindex and route["dst_len"] == longest and route.get("dst"):
                ip = ip_address(route.get("dst"))
                if not ip.is_link_local and not ip.is_multicast:
                    yield ip


def _link(routes: IPRoute, ifindex: int) -> Any | None:
    try:
        return routes.get_links(ifindex)[0]
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise
        return None


def _kind(link: Any) -> str | None:
    info = link.get("linkinfo")
    return info.get("kind") if info is not None else None
