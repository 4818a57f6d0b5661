"""What the node's proxies carry, and how it is ended: both sides see a reset.

A proxy asks once, when a connection is made, who is at its ends. When an address becomes another's, or its pod other
labels, the connections made before may have to end. The proxies' sockets are known by being transparent: towards the
client they have the server's address, towards the server the client's, and a mark.
https://www.man7.org/linux/man-pages/man7/sock_diag.7.html; SOCK_DESTROY needs CONFIG_INET_DIAG_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from ..policies.workload import IPAddress
from .errors import BpfUnsupportedError
from .routing import MARK_UPSTREAM

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_LIVE = 0xFFF & ~(1 << 6 | 1 << 7 | 1 << 10)  # all TCP states but TIME_WAIT, CLOSE and LISTEN
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ASKED = struct.Struct("=BBxxI48s")  # struct inet_diag_req_v2
_SOCKET = struct.Struct("=4x48s20x")  # struct inet_diag_msg, of which struct inet_diag_sockid is read
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_MARK = 15  # INET_DIAG_MARK, told to those with CAP_NET_ADMIN
_SOCKET_OPTIONS, _TRANSPARENT = 22, 1 << 5  # INET_DIAG_SOCKOPT, and its bit in struct inet_diag_sockopt
_ENDS = struct.Struct("!HH16s16s")  # the beginning of struct inet_diag_sockid


@dataclass(frozen=True, slots=True)
class Carried:
    """One of a proxy's TCP connections, between the ends that it stands in for.

    `accepted`: the leg that the client made, else that to the server, where the client's port is the proxy's choice.
    """

    client: IPAddress
    client_port: int
    server: IPAddress
    server_port: int
    accepted: bool
    family: int
    number: bytes  # struct inet_diag_sockid, with its cookie: no other socket has it

    @property
    def ends(self) -> tuple[IPAddress, int, IPAddress, int]:
        """The client with its port, and the server."""
        return self.client, self.client_port, self.server, self.server_port


def carried() -> tuple[Carried, ...]:
    """All of the network namespace of the calling thread. Raises OSError."""
    with _opened() as netlink:
        return tuple(each for family in (socket.AF_INET, socket.AF_INET6) for each in _transparent(netlink, family))


def end_carried(connections: Iterable[Carried]) -> int:
    """End them; how many there still were. Raises BpfUnsupportedError when the kernel cannot, OSError."""
    with _opened() as netlink:
        return sum(_end(netlink, each) for each in connections)


def _opened() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    try:
        netlink.bind((0, 0))
    except OSError:
        netlink.close()
        raise
    return netlink


def _transparent(netlink: socket.socket, family: int) -> Iterator[Carried]:
    """The TCP connections of transparent sockets."""
    _send(netlink, _BY_FAMILY, _REQUEST | _DUMP, family, bytes(48))
    while True:
        for kind, payload in _messages(netlink.recv(1 << 18)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", payload)[0], "sock_diag does not answer")
            told = _attributes(payload)
            options = told.get(_SOCKET_OPTIONS, b"")
            if options and options[0] & _TRANSPARENT:
                mark = int.from_bytes(told.get(_MARK, b""), sys.byteorder)
                yield _carried(family, _SOCKET.unpack_from(payload)[0], mark)


def _attributes(message: bytes) -> dict[int, bytes]:
    """By kind."""
    found = {}
    attributes = message[_SOCKET.size :]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        found[kind] = attributes[_ATTRIBUTE.size : length]
        attributes = attributes[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return found


def _carried(family: int, number: bytes, mark: int) -> Carried:
    local_port, remote_port, *raw = _ENDS.unpack_from(number)
    size = 4 if family == socket.AF_INET else 16
    local, remote = (_unmapped(ip_address(each[:size])) for each in raw)
    if mark == MARK_UPSTREAM:
        return Carried(local, local_port, remote, remote_port, False, family, number)
    return Carried(remote, remote_port, local, local_port, True, family, number)


def _end(netlink: socket.socket, connection: Carried) -> bool:
    _send(netlink, _DESTROY, _REQUEST | _ACK, connection.family, connection.number)
    ((_, payload),) = _messages(netlink.recv(1 << 16))
    code: int = -struct.unpack_from("=i", payload)[0]
    if code == errno.EOPNOTSUPP:
        raise BpfUnsupportedError(
            "the kernel cannot end connections of others (CONFIG_INET_DIAG_DESTROY); use one that can"
        )
    if code not in (0, errno.ENOENT):
        raise OSError(code, os.strerror(code))
    return code == 0


def _send(netlink: socket.socket, kind: int, flags: int, family: int, identity: bytes) -> None:
    body = _ASKED.pack(family, socket.IPPROTO_TCP, _LIVE, identity)
    netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _unmapped(address: IPAddress) -> IPAddress:
    return address.ipv4_mapped or address if address.version == 6 else address
