"""Datagrams and segments in fragments, as honest stacks send them and as nobody does."""

from __future__ import annotations

import struct

from lockgate.policies.workload import IPAddress
from lockgate.tests.e2e import wire
from lockgate.tests.e2e.field import L4, SHUT
from lockgate.tests.e2e.wire import TCP, UDP, ip


def fragments_of_a_datagram(client: IPAddress, server: IPAddress, port: int, mark: bytes) -> list[bytes]:
    whole = wire.udp(client, server, port, L4, mark * 2)
    return [
        ip(client, server, UDP, whole[:16], fragment=0x2000),
        ip(client, server, UDP, whole[16:], fragment=2),
    ]


def tiny_fragments(client: IPAddress, server: IPAddress, port: int, mark: bytes) -> list[bytes]:
    """The flags come in the second one (RFC 1858)."""
    whole = wire.tcp(client, server, port, SHUT, data=mark)
    return [ip(client, server, TCP, whole[:8], fragment=0x2000), ip(client, server, TCP, whole[8:], fragment=1)]


def overlapping_fragments(client: IPAddress, server: IPAddress, port: int, mark: bytes) -> list[bytes]:
    """The second one would write another port over that of the first."""
    whole = wire.udp(client, server, port, L4, mark * 2)
    other = wire.udp(client, server, port, SHUT, mark * 2)
    return [
        ip(client, server, UDP, whole[:24], fragment=0x2000),
        ip(client, server, UDP, other[8:], fragment=0x2001),
        ip(client, server, UDP, other, fragment=0),
    ]


def fragments_of_ipv6(client: IPAddress, server: IPAddress, port: int, mark: bytes) -> list[bytes]:
    whole = wire.udp(client, server, port, L4, mark * 2)

    def fragment(offset: int, data: bytes, more: int) -> bytes:
        return ip(client, server, 44, struct.pack("!BBHI", UDP, 0, offset | more, 7) + data)

    return [fragment(0, whole[:16], 1), fragment(16, whole[16:], 0), fragment(0, whole, 0)]  # the last is "atomic"
