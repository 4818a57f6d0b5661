"""Ends what the node's proxies carry for an address: both sides see a reset.

A proxy asks once, when a connection is made, who is at its ends. When an address becomes another's, or its pod other
labels, the connections made before must not go on as they were. The proxies' sockets are known by being transparent:
towards the client they have the server's address, towards the server the client's.
https://www.man7.org/linux/man-pages/man7/sock_diag.7.html; SOCK_DESTROY needs CONFIG_INET_DIAG_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Set
from ipaddress import ip_address

from ..policies.workload import IPAddress
from .errors import BpfUnsupportedError

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_LIVE = 0xFFF & ~(1 << 6 | 1 << 7 | 1 << 10)  # all TCP states but TIME_WAIT, CLOSE and LISTEN
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ASKED = struct.Struct("=BBxxI48s")  # struct inet_diag_req_v2
_SOCKET = struct.Struct("=4x48s20x")  # struct inet_diag_msg, of which struct inet_diag_sockid is read
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_SOCKET_OPTIONS, _TRANSPARENT = 22, 1 << 5  # INET_DIAG_SOCKOPT, and its bit in struct inet_diag_sockopt
_ENDS = struct.Struct("=4x16s16s")  # the beginning of struct inet_diag_sockid


def end_carried(addresses: Set[IPAddress]) -> int:
    """End the TCP connections of proxies with one of `addresses` at an end; how many there were.

    Works in the network namespace of the calling thread. Raises BpfUnsupportedError when the kernel cannot.
    """
    ended = 0
    if not addresses:
        return ended
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
        netlink.bind((0, 0))
        for family in (socket.AF_INET, socket.AF_INET6):
            for identity in list(_transparent(netlink, family)):
                if not addresses.isdisjoint(_ends(family, identity)):
                    ended += _end(netlink, family, identity)
    return ended


def _transparent(netlink: socket.socket, family: int) -> Iterator[bytes]:
    """The struct inet_diag_sockid of each TCP connection of a transparent socket."""
    _send(netlink, _BY_FAMILY, _REQUEST | _DUMP, family, bytes(48))
    while True:
        for kind, payload in _messages(netlink.recv(1 << 18)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", payload)[0], "sock_diag does not answer")
            if _options(payload) & _TRANSPARENT:
                yield _SOCKET.unpack_from(payload)[0]


def _options(message: bytes) -> int:
    """The first byte of struct inet_diag_sockopt; 0 when it is not told."""
    attributes = message[_SOCKET.size :]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _SOCKET_OPTIONS:
            return attributes[_ATTRIBUTE.size]
        attributes = attributes[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return 0


def _end(netlink: socket.socket, family: int, identity: bytes) -> int:
    _send(netlink, _DESTROY, _REQUEST | _ACK, family, identity)
    ((_, payload),) = _messages(netlink.recv(1 << 16))
    code = -struct.unpack_from("=i", payload)[0]
    if code == errno.EOPNOTSUPP:
        raise BpfUnsupportedError(
            "the kernel cannot end connections of others (CONFIG_INET_DIAG_DESTROY); use one that can"
        )
    if code not in (0, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    return int(code == 0)


def _send(netlink: socket.socket, kind: int, flags: int, family: int, identity: bytes) -> None:
    body = _ASKED.pack(family, socket.IPPROTO_TCP, _LIVE, identity)
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _ends(family: int, identity: bytes) -> tuple[IPAddress, IPAddress]:
    """The local address and the peer's; an IPv4 one on an IPv6 socket is an IPv4 one."""
    size = 4 if family == socket.AF_INET else 16
    local, remote = (ip_address(raw[:size]) for raw in _ENDS.unpack_from(identity))
    return _unmapped(local), _unmapped(remote)


def _unmapped(address: IPAddress) -> IPAddress:
    return address.ipv4_mapped or address if address.version == 6 else address
