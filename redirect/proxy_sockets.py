"""What the node's proxies carry, and how it is ended: both sides see a reset.

A proxy asks once, when a connection is made, who is at its ends. When an address becomes another's, or its pod other
labels, the connections made before may have to end. The proxies' sockets are known by being transparent: towards the
client they have the server's address, towards the server the client's, and a mark.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from ..policies.workload import IPAddress
from .routing import MARK_UPSTREAM
from .socket_diag import FoundSocket, SocketDiag

_MARK = 15  # INET_DIAG_MARK, told to those with CAP_NET_ADMIN
_SOCKET_OPTIONS, _TRANSPARENT = 22, 1 << 5  # INET_DIAG_SOCKOPT, and its bit in struct inet_diag_sockopt


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
    found: FoundSocket

    @property
    def ends(self) -> tuple[IPAddress, int, IPAddress, int]:
        """The client with its port, and the server."""
        return self.client, self.client_port, self.server, self.server_port


def carried() -> tuple[Carried, ...]:
    """All of the network namespace of the calling thread. Raises OSError."""
    with SocketDiag() as diag:
        return tuple(
            _carried(each)
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in diag.live(family)
            if _is_transparent(each)
        )


def end_carried(connections: Iterable[Carried]) -> int:
    """End them; how many there still were. Raises BpfUnsupportedError when the kernel cannot, OSError."""
    with SocketDiag() as diag:
        return sum(diag.end(each.found) for each in connections)


def _is_transparent(found: FoundSocket) -> bool:
    options = found.attributes.get(_SOCKET_OPTIONS, b"")
    return bool(options and options[0] & _TRANSPARENT)


def _carried(found: FoundSocket) -> Carried:
    local, remote = found.ends
    if int.from_bytes(found.attributes.get(_MARK, b""), sys.byteorder) == MARK_UPSTREAM:
        return Carried(*local, *remote, False, found)
    return Carried(*remote, *local, True, found)
