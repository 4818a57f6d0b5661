"""Sockets of a transparent proxy: they receive what was sent to others and send as if they were others.

https://docs.kernel.org/networking/tproxy.html; the kernel's side is bpf/steer.h.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

from ...policies.workload import IPAddress
from ...redirect.routing import MARK_UPSTREAM
from .packet import SocketAddress

_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_IP_RECVORIGDSTADDR, _IPV6_RECVORIGDSTADDR = 20, 74  # also the type of the control message
_IP_BIND_ADDRESS_NO_PORT = 24
_SO_MARK = 36
_SO_RCVBUFFORCE = 33  # beyond what the node allows others; whoever may set marks may do that
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_RECEIVE_BUFFER = 1 << 21
CONTROL_SIZE = socket.CMSG_SPACE(28)  # struct sockaddr_in6

FAMILIES = (socket.AF_INET, socket.AF_INET6)


def family_of(ip: IPAddress) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if ip.version == 4 else socket.AF_INET6


def listen_udp(family: socket.AddressFamily, port: int) -> socket.socket:
    """Receives every datagram that the kernel assigns to it; control messages say where each was sent. OSError."""
    made = _open(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, _IP_RECVORIGDSTADDR, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        made.bind((_LOOPBACK[family], port))
    except OSError:
        made.close()
        raise
    return made


def listen_tcp(family: socket.AddressFamily, port: int, backlog: int) -> socket.socket:
    """Accepts every connection that the kernel assigns to it; `getsockname` is where each went. OSError."""
    made = _open(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((_LOOPBACK[family], port))
        made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def answer_socket(family: socket.AddressFamily) -> socket.socket:
    """Sends whole packets (packet.udp_packet) and receives nothing. Without a mark: it begins nothing. OSError."""
    return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)


def upstream_socket(kind: socket.SocketKind, client: IPAddress) -> socket.socket:
    """A socket with the client's own address and a random port, not connected yet. OSError."""
    family = family_of(client)
    made = _open(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK_UPSTREAM)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        made.bind((str(client), 0))
    except OSError:
        made.close()
        raise
    return made


def original_destination(control: list[tuple[int, int, bytes]]) -> SocketAddress | None:
    """Where a datagram was sent, from its control messages."""
    for level, kind, data in control:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVORIGDSTADDR):
            port, packed = struct.unpack_from("!2xH4s", data)
            return SocketAddress(ip_address(packed), port)
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_RECVORIGDSTADDR):
            port, packed = struct.unpack_from("!2xH4x16s", data)
            return SocketAddress(ip_address(packed), port)
    return None


def _open(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET:
            made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        else:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError:
        made.close()
        raise
    return made
