"""Frames of every kind that one end of a bridge may send to another, and what really comes to an interface."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.wire import BROADCAST, ICMP, ICMPV6, TCP, UDP, arp, icmpv6, ip, tcp, udp

_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_SIGNED = re.compile(rb"<([A-Za-z0-9, ]+)>")
_NEIGHBOUR_SOLICITATION, _ECHO_REQUEST = 135, 8
NOT_FORWARDED = frozenset({"up from the port"})  # by any bridge


class Link:
    """An interface in a namespace: sends frames, and keeps the signed ones that come in."""

    def __init__(self, where: Path, interface: str = "eth0") -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind((interface, _ALL))
            made.setblocking(False)
            return made

        self._socket = netns.run_in(where, listen)
        self.mac: bytes = self._socket.getsockname()[4]

    def send(self, frames: Mapping[str, bytes]) -> None:
        """One after the other."""
        for frame in frames.values():
            self._socket.send(frame)

    def received(self) -> set[str]:
        """The names of what has come in since the last call."""
        found: set[str] = set()
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            signed = _SIGNED.search(frame)
            if signed and address[2] != _OUTGOING:
                found.add(signed[1].decode())

    def close(self) -> None:
        """Stop capturing."""
        self._socket.close()


def sign(name: str) -> bytes:
    """What a frame carries by which `Link.received` knows it."""
    return b"<" + name.encode() + b">"


def frames(
    mac: bytes, to: bytes, four: tuple[IPAddress, IPAddress], six: tuple[IPAddress, IPAddress], other: bytes
) -> dict[str, bytes]:
    """From `mac` to `to`, with these sources and destinations; `other` is the hardware address of somebody else."""
    return {name: frame(sign(name)) for name, frame in _kinds(mac, to, four, six, other).items()}


def _kinds(
    mac: bytes, to: bytes, four: tuple[IPAddress, IPAddress], six: tuple[IPAddress, IPAddress], other: bytes
) -> dict[str, Callable[[bytes], bytes]]:
    to_four, to_six = to + mac + b"\x08\x00", to + mac + b"\x86\xdd"
    ping = struct.pack("!BBHHH", _ECHO_REQUEST, 0, 0, 1, 1)

    def datagram(data: bytes) -> bytes:
        return ip(*four, UDP, udp(*four, 4000, 9053, data))

    def asked(data: bytes) -> bytes:
        return icmpv6(*six, _NEIGHBOUR_SOLICITATION, bytes(4) + six[1].packed + data)

    return {
        "TCP": lambda data: to_four + ip(*four, TCP, tcp(*four, 4000, 8080, data=data)),
        "UDP": lambda data: to_four + datagram(data),
        "ICMP": lambda data: to_four + ip(*four, ICMP, ping + data),
        "TCP over IPv6": lambda data: to_six + ip(*six, TCP, tcp(*six, 4000, 8080, data=data)),
        "UDP over IPv6": lambda data: to_six + ip(*six, UDP, udp(*six, 4000, 9053, data)),
        "neighbour solicitation": lambda data: to_six + ip(*six, ICMPV6, asked(data), hops=255),
        "multicast": lambda data: b"\x01\x00\x5e\x00\x00\xfb" + mac + b"\x08\x00" + datagram(data),
        "broadcast": lambda data: BROADCAST + mac + b"\x08\x00" + datagram(data),
        "ARP to everybody": lambda data: arp(four[0], mac, four[1], 1) + data,
        "ARP to one": lambda data: to + arp(four[0], mac, four[1])[6:] + data,
        "no IP": lambda data: to + mac + b"\x88\xb5" + data,
        "no IP, to everybody": lambda data: BROADCAST + mac + b"\x88\xb5" + data,
        "no type": lambda data: to + mac + struct.pack("!H", 3 + len(data)) + b"\xaa\xaa\x03" + data,
        "VLAN": lambda data: to + mac + b"\x81\x00\x00\x07\x08\x00" + datagram(data),
        "VLAN in a VLAN": lambda data: to + mac + b"\x88\xa8\x00\x07\x81\x00\x00\x08\x08\x00" + datagram(data),
        "as somebody else": lambda data: to + other + b"\x08\x00" + datagram(data),
        "up from the port": lambda data: b"\x01\x80\xc2\x00\x00\x0e" + mac + b"\x08\x00" + datagram(data),
        "spanning tree": lambda data: (
            b"\x01\x80\xc2\x00\x00\x00" + mac + struct.pack("!H", 3 + len(data)) + b"\x42\x42\x03" + data
        ),
    }
