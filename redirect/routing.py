"""Rules, routes and sysctls of the node that bring redirected packets to Envoy.

A packet that from_pod assigned to Envoy's socket carries mark 0x200. Its destination is another pod's, so a rule sends
the mark to a table where every address is local; the socket then takes it. All of it works in the current network
namespace.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from .errors import RoutingFailedError

MARK_PROXY = 0x200
MARK_UPSTREAM = 0xA00  # of the proxies' own connections to servers: bpf/mark.h
MARK_MASK = 0xF00
TABLE = 2005
PRIORITY = 100  # after `local` (0), before `main` (32766)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_ANY = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_LOOPBACK = 1
_SCOPE_HOST = 254
_HOST_SYSCTLS = Path("/host/proc/sys/net")
_LIBERAL = "netfilter/nf_conntrack_tcp_be_liberal"
_SYSCTLS = {
    "ipv4/ip_forward": "1",
    "ipv6/conf/all/forwarding": "1",
    # Envoy sends with pods' addresses from the node: a reverse path check would drop the answers.
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    # to_pod turns answers to a proxy back to lo, also those of servers on this node.
    "ipv4/conf/lo/rp_filter": "0",
    "ipv4/conf/lo/accept_local": "1",
    # The kernel forwards nothing that it has found a socket for. It must not look for one in what an engine has just
    # translated: when to_pod and from_loopback have had their say a proxy's socket may be the one it is for.
    "ipv4/ip_early_demux": "0",
    # The destination in the header must be the one that was judged.
    "ipv4/conf/all/accept_source_route": "0",
    "ipv6/conf/all/accept_source_route": "-1",
}


def install() -> None:
    """Set everything up; what is there already stays as it is. Raises RoutingFailedError."""
    for key, value in _SYSCTLS.items():
        _write_sysctl(key, value)
    with IPRoute() as routes:
        for family in _FAMILIES:
            try:
                routes.route("replace", **_route(family))
                routes.rule("add", **_rule(family))
            except NetlinkError as error:
                if error.code not in (errno.EEXIST, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                    raise _failed("set up", family, error) from error


def install_interface(interface: str) -> None:
    """The reverse path filter of one interface: the stricter of its own and the node's counts."""
    _write_sysctl(f"ipv4/conf/{interface}/rp_filter", "0")


def tolerate_gaps() -> None:
    """Has the node's connection tracking, if there is any, make nothing of sequence numbers that it has not followed.

    With host routing it sees how a connection begins and ends, and little between: the end would be invalid to it, and
    firewalls drop that (https://docs.kernel.org/networking/nf_conntrack-sysctl.html). Raises RoutingFailedError.
    """
    if Path("/proc/sys/net", _LIBERAL).exists():
        _write_sysctl(_LIBERAL, "1")


def trust_sources(ifindex: int) -> None:
    """Spare the kernel a second look-up of the route for each IPv4 packet from an endpoint's interface.

    With a rule like ours it looks the source up, lest it be one of the node's own addresses (fib_validate_source);
    from_pod lets through no source but the endpoint's. An interface that is gone is fine, and so is a look-up more.
    """
    _accept_local(ifindex, "1")


def check_sources(ifindex: int) -> None:
    """The kernel looks again."""
    _accept_local(ifindex, "0")


def _accept_local(ifindex: int, value: str) -> None:
    with suppress(OSError, RoutingFailedError):
        _write_sysctl(f"ipv4/conf/{socket.if_indextoname(ifindex)}/accept_local", value)


def remove() -> None:
    """Take rules and routes away. The sysctls stay: others may rely on them by now."""
    with IPRoute() as routes:
        for family in _FAMILIES:
            with _absent_is_fine(family):
                routes.rule("del", **_rule(family))
            with _absent_is_fine(family):
                routes.route("del", **_route(family))


@contextmanager
def _absent_is_fine(family: socket.AddressFamily) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in (errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise _failed("remove", family, error) from error


def _rule(family: socket.AddressFamily) -> dict[str, int]:
    return {"family": family, "priority": PRIORITY, "fwmark": MARK_PROXY, "fwmask": MARK_MASK, "table": TABLE}


def _route(family: socket.AddressFamily) -> dict[str, Any]:
    return {
        "family": family,
        "type": "local",
        "dst": _ANY[family],
        "oif": _LOOPBACK,
        "table": TABLE,
        "scope": _SCOPE_HOST,
    }


def _failed(what: str, family: socket.AddressFamily, error: NetlinkError) -> RoutingFailedError:
    name = "IPv4" if family == socket.AF_INET else "IPv6"
    return RoutingFailedError(
        f"cannot {what} the {name} rule and route of table {TABLE}: {error.args[-1]}; run as root"
    )


def _write_sysctl(key: str, value: str) -> None:
    path = Path("/proc/sys/net", key)
    try:
        if path.read_text().strip() != value:
            # In a container that path is read-only, and the host's is bound beside it.
            (_HOST_SYSCTLS / key if _HOST_SYSCTLS.is_dir() else path).write_text(value)
    except FileNotFoundError as error:
        if key.startswith("ipv6/"):
            return  # a node without IPv6
        raise RoutingFailedError(f"{path} does not exist: the interface is gone, or /proc is not mounted") from error
    except OSError as error:
        raise RoutingFailedError(f"cannot write {value} to {path} ({error.strerror}); run as root") from error
