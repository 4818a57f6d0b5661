"""What goes from pod to pod, and what of it the node's stack has had."""

from __future__ import annotations

import select
import socket
import struct

import pytest
from lockgate.agent.playground import Namespace, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.datapath_node import GLANCE, PATIENCE, Node
from lockgate.tests.e2e.wire import ICMP, ICMPV6, TCP, UDP

PORT = 7100  # where the server's socket of a `Datagrams` is
_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_SO_RCVMARK = 75
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


class Capture:
    """What leaves by an interface, or comes in."""

    def __init__(self, where: Namespace, interface: str, *, outgoing: bool = False) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind((interface, _ALL))
            made.setblocking(False)
            return made

        self._socket = netns.run_in(where.path, listen)
        self._outgoing = outgoing

    def passed(self, *ports: int) -> list[bytes]:
        """Frames from or to one of the ports, since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if (address[2] == _OUTGOING) == self._outgoing and {*ports_of(frame)} & {*ports}:
                found.append(frame)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def through_stack(node: Node, pod: Pod) -> Capture:
    """What the node's stack gives a pod."""
    return Capture(node.ground.node, pod.interface, outgoing=True)


def ports_of(frame: bytes) -> tuple[int, ...]:
    """Of TCP and UDP, and of what an ICMP error is about."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind not in (0x0800, 0x86DD):
        return ()
    length = 20 if kind == 0x0800 else 40
    at = 14 + (4 * (frame[14] & 15) if kind == 0x0800 else length)
    protocol = frame[23 if kind == 0x0800 else 20]
    if protocol in (ICMP, ICMPV6):
        at += 8 + length
    elif protocol not in (TCP, UDP):
        return ()
    return struct.unpack_from("!HH", frame, at) if len(frame) >= at + 4 else ()


def hops_of(frame: bytes) -> int:
    return frame[22] if frame[12:14] == b"\x08\x00" else frame[21]


class Datagrams:
    """Two sockets that have spoken both ways, so that all that follows may go straight."""

    def __init__(self, client: Pod, server: Pod, family: int, options: tuple[tuple[int, int, int], ...] = ()) -> None:
        self.ends = client.ips[family], server.ips[family]
        self.client = netns.run_in(client.path, lambda: self._open(self.ends[0], 0, options))
        self.server = netns.run_in(server.path, lambda: self._open(self.ends[1], PORT, ((1, _SO_RCVMARK, 1),)))
        self.client.connect((str(self.ends[1]), PORT))
        self.port: int = self.client.getsockname()[1]
        self.server.connect((str(self.ends[0]), self.port))
        for _ in range(2):
            assert self.there() == self.back() == b"warm"

    @staticmethod
    def _open(own: IPAddress, port: int, options: tuple[tuple[int, int, int], ...]) -> socket.socket:
        made = socket.socket(socket.AF_INET if own.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        for option in options:
            made.setsockopt(*option)
        made.bind((str(own), port))
        return made

    def there(self, data: bytes = b"warm") -> bytes:
        self.client.send(data)
        return self.server.recv(1 << 16)

    def back(self, data: bytes = b"warm") -> bytes:
        self.server.send(data)
        return self.client.recv(1 << 16)

    def arrives(self, patience: float = GLANCE) -> bool:
        """Whether anything does."""
        return bool(select.select([self.server], [], [], patience)[0])

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()


def run(where: Namespace, *command: str) -> str:
    ended = where.run(command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def nft(node: Node, rules: str) -> None:
    ended = node.ground.node.run(["nft", "-f", "-"], input=rules)
    assert ended.returncode == 0, ended.stderr
