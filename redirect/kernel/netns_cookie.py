"""The number by which the kernel's programs know a network namespace (SO_NETNS_COOKIE)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ...policies.workload import Endpoint
from ..errors import NamespaceGoneError
from . import netns

_SO_NETNS_COOKIE = 71
_PROC = Path("/proc")


def own_cookie() -> int:
    """Of the calling thread's namespace. Never 0."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0])


class Cookies:
    """Those of endpoints, each looked up once: no later endpoint gets its interface's number."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def of(self, endpoints: Iterable[Endpoint]) -> dict[int, int]:
        """By ifindex, for the local ones whose namespace can be found. To be called in the node's namespace; blocks."""
        wanted = {endpoint.ifindex: endpoint for endpoint in endpoints if endpoint.local}
        self._known = {ifindex: cookie for ifindex, cookie in self._known.items() if ifindex in wanted}
        unknown = [endpoint for ifindex, endpoint in wanted.items() if ifindex not in self._known]
        lost = []
        for endpoint in unknown:
            path = _listed(endpoint)
            cookie = _cookie_in(path) if path is not None else 0
            if cookie:
                self._known[endpoint.ifindex] = cookie
            else:
                lost.append(endpoint.ifindex)
        if lost:
            self._known |= _behind(lost)
        return dict(self._known)


def _listed(endpoint: Endpoint) -> Path | None:
    workload = endpoint.workload
    if workload.netns is not None:
        return netns.named(workload.netns)
    return netns.of_process(workload.pid) if workload.pid is not None else None


def _cookie_in(path: Path) -> int:
    try:
        return netns.run_in(path, own_cookie)
    except NamespaceGoneError:  # it went in this moment
        return 0


def _behind(interfaces: Iterable[int]) -> dict[int, int]:
    """Of the namespaces at the other ends of these veths, as far as a name or a process leads there."""
    found: dict[int, int] = {}
    with IPRoute() as routes:
        numbers: dict[int, list[int]] = {}
        for ifindex in interfaces:
            try:
                number = routes.get_links(ifindex)[0].get("link_netnsid")
            except NetlinkError:
                continue
            if number is not None:
                numbers.setdefault(number, []).append(ifindex)
        for path in _namespaces():
            if not numbers:
                break
            try:
                with path.open("rb") as namespace:
                    number = routes.get_netnsid(fd=namespace.fileno())["nsid"]
            except (OSError, NetlinkError):
                continue
            if number in numbers and (cookie := _cookie_in(path)):
                found |= dict.fromkeys(numbers.pop(number), cookie)
    return found


def _namespaces() -> Iterator[Path]:
    """A file of every network namespace that has a name or a process."""
    seen: set[tuple[int, int]] = set()
    for path in (*netns.NETNS_DIR.glob("*"), *_PROC.glob("[0-9]*/ns/net")):
        try:
            cookie = netns.cookie(path)
        except (OSError, NamespaceGoneError):
            continue
        if cookie not in seen:
            seen.add(cookie)
            yield path
