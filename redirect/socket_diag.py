"""TCP sockets of this network namespace as the kernel lists, finds and ends them.

https://www.man7.org/linux/man-pages/man7/sock_diag.7.html; SOCK_DESTROY needs CONFIG_INET_DIAG_DESTROY (Linux 4.5).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from types import TracebackType

from ..policies.workload import IPAddress
from .errors import BpfUnsupportedError

End = tuple[IPAddress, int]

_NETLINK_SOCK_DIAG = 4
_BY_FAMILY, _DESTROY = 20, 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_LISTEN = 10
_LIVE = 0xFFF & ~(1 << 6 | 1 << 7 | 1 << _LISTEN)  # all TCP states but TIME_WAIT, CLOSE and LISTEN
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ASKED = struct.Struct("=BBxxI48s")  # struct inet_diag_req_v2
_SOCKET = struct.Struct("=xB2x48s20x")  # struct inet_diag_msg, of which state and struct inet_diag_sockid are read
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_ENDS = struct.Struct("!HH16s16s")  # the beginning of struct inet_diag_sockid
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 2**32 - 1, 2**32 - 1)


@dataclass(frozen=True, slots=True)
class FoundSocket:
    """`number`: struct inet_diag_sockid, with its cookie: no other socket has it. `attributes` are bytes by kind."""

    family: int
    number: bytes
    attributes: dict[int, bytes] = field(default_factory=dict, compare=False)

    @property
    def ends(self) -> tuple[End, End]:
        """The local and the remote one."""
        local_port, remote_port, *raw = _ENDS.unpack_from(self.number)
        size = 4 if self.family == socket.AF_INET else 16
        local, remote = (_unmapped(ip_address(each[:size])) for each in raw)
        return (local, local_port), (remote, remote_port)


class SocketDiag:
    """A netlink socket, of the network namespace of the thread that makes it. Raises OSError."""

    def __init__(self) -> None:
        self._netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
        try:
            self._netlink.bind((0, 0))
        except OSError:
            self._netlink.close()
            raise

    def __enter__(self) -> SocketDiag:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._netlink.close()

    def live(self, family: int) -> Iterator[FoundSocket]:
        """All that are part of a connection."""
        self._send(_BY_FAMILY, _REQUEST | _DUMP, family, bytes(48))
        while True:
            for kind, payload in _messages(self._netlink.recv(1 << 18)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(_code(payload), "sock_diag does not answer")
                yield FoundSocket(family, _SOCKET.unpack_from(payload)[1], _attributes(payload))

    def between(self, local: End, remote: End) -> FoundSocket | None:
        """The one of this connection. The kernel tells of who listens at the local end where there is none."""
        family = socket.AF_INET if local[0].version == 4 else socket.AF_INET6
        ends = _ENDS.pack(local[1], remote[1], local[0].packed, remote[0].packed)
        self._send(_BY_FAMILY, _REQUEST, family, ends + _ANY_INTERFACE_AND_COOKIE)
        ((kind, payload),) = _messages(self._netlink.recv(1 << 16))
        if kind == _ERROR:
            if _code(payload) != errno.ENOENT:
                raise OSError(_code(payload), os.strerror(_code(payload)))
            return None
        state, number = _SOCKET.unpack_from(payload)
        if state == _LISTEN:
            return None
        # As it was asked for: one for both families is told with mapped addresses, by which nothing is found.
        return FoundSocket(family, ends + number[_ENDS.size :], _attributes(payload))

    def end(self, found: FoundSocket) -> bool:
        """Its peer gets a reset; False when it is over already. Raises BpfUnsupportedError when the kernel cannot."""
        self._send(_DESTROY, _REQUEST | _ACK, found.family, found.number)
        ((_, payload),) = _messages(self._netlink.recv(1 << 16))
        code = _code(payload)
        if code == errno.EOPNOTSUPP:
            raise BpfUnsupportedError(
                "the kernel cannot end connections of others (CONFIG_INET_DIAG_DESTROY); use one that can"
            )
        # ESTALE: another socket, or who listens there, is what is found with these ends by now.
        if code not in (0, errno.ENOENT, errno.ESTALE):
            raise OSError(code, os.strerror(code))
        return code == 0

    def _send(self, kind: int, flags: int, family: int, identity: bytes) -> None:
        body = _ASKED.pack(family, socket.IPPROTO_TCP, _LIVE, identity)
        self._netlink.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _attributes(message: bytes) -> dict[int, bytes]:
    found = {}
    attributes = message[_SOCKET.size :]
    while len(attributes) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        found[kind] = attributes[_ATTRIBUTE.size : length]
        attributes = attributes[max(length + 3 & ~3, _ATTRIBUTE.size) :]
    return found


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        yield kind, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _code(payload: bytes) -> int:
    code: int = -struct.unpack_from("=i", payload)[0]
    return code


def _unmapped(address: IPAddress) -> IPAddress:
    return address.ipv4_mapped or address if address.version == 6 else address
