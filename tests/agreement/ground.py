"""A network namespace in which every address is local, for programs and Envoy to be asked about any pair of them.

The calling thread moves into it, with all threads and processes that it starts. `ep0`, `ep1`, ... are the node's sides
of veths that lead nowhere: endpoints need an interface, not a pod. A new TCP connection on the loopback device goes to
Envoy, whatever its addresses and port; one with Envoy's mark goes to the echo server. The kernel's own redirect is not
used here (`kernel.py` asks it), so that Envoy can be asked about flows that the kernel would not send to it: a client's
mark says which listener is meant.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ENDPOINTS = 5  # interfaces for local workloads
ENVOY_PORT, TLS_PORT, ECHO_PORT = 15001, 15002, 15999
ENVOY_MARK, TLS_MARK = 0xA00, 0xB00

_CLONE_NEWNET = 0x40000000
_SET_UP = f"""
cd /proc/sys/net
echo 0 >ipv6/conf/all/disable_ipv6
echo 1 >ipv6/conf/default/disable_ipv6
echo 0 >ipv6/conf/lo/disable_ipv6
echo 1 >ipv4/ip_nonlocal_bind
echo 1 >ipv6/ip_nonlocal_bind
echo 10000 60999 >ipv4/ip_local_port_range
ip link set lo up
for n in $(seq 0 {ENDPOINTS - 1}); do
    ip link add ep$n type veth peer name wire$n
    ip link set ep$n up arp off
    ip link set wire$n up arp off
done
ip route add local 0.0.0.0/0 dev lo
ip -6 route add local ::/0 dev lo
nft -f - <<'END'
table inet agreement {{
    chain prerouting {{
        type filter hook prerouting priority mangle
        iifname != "lo" accept
        meta l4proto != tcp accept
        tcp flags & (syn | ack) != syn accept
        meta mark {ENVOY_MARK} meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{ECHO_PORT} accept
        meta mark {ENVOY_MARK} meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{ECHO_PORT} accept
        meta mark {TLS_MARK} meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{TLS_PORT} accept
        meta mark {TLS_MARK} meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{TLS_PORT} accept
        meta nfproto ipv4 meta l4proto tcp tproxy ip to 127.0.0.1:{ENVOY_PORT} accept
        meta nfproto ipv6 meta l4proto tcp tproxy ip6 to [::1]:{ENVOY_PORT} accept
    }}
}}
END
"""


def interface(number: int) -> str:
    """The interface of a local workload."""
    return f"ep{number}"


def wire(interface: str) -> str:
    """Its other side: what is sent there reaches the node as if a pod had sent it."""
    return interface.replace("ep", "wire")


@contextmanager
def ground() -> Iterator[dict[str, int]]:
    """Inside the block the calling thread lives in a new namespace; gives interface -> ifindex. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        if libc.unshare(_CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"cannot make a network namespace ({os.strerror(code)}); run as root")
        try:
            subprocess.run(["sh", "-ec", _SET_UP], check=True)
            yield {name: socket.if_nametoindex(name) for name in map(interface, range(ENDPOINTS))}
        finally:
            if libc.setns(home.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "cannot return from the network namespace")
