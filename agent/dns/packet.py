"""IP packets with a UDP datagram in them: how the proxy answers from an address and port that belong to the server."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ...policies.workload import IPAddress

_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")
_HOPS = 64
_PROTOCOL = 17
LONGEST_PAYLOAD = 65535 - _IPV4.size - _UDP.size


class SocketAddress(NamedTuple):
    """One end of a flow."""

    ip: IPAddress
    port: int


def udp_packet(source: SocketAddress, destination: SocketAddress, payload: bytes) -> bytes:
    """The whole packet; both addresses are of one family. The kernel fills in the checksum of an IPv4 header."""
    length = _UDP.size + len(payload)
    ports = (source.port, destination.port)
    addresses = source.ip.packed + destination.ip.packed
    pseudo = addresses + struct.pack("!II", length, _PROTOCOL)
    checksum = _checksum(pseudo + _UDP.pack(*ports, length, 0) + payload)
    datagram = _UDP.pack(*ports, length, checksum) + payload
    if source.ip.version == 4:
        head = _IPV4.pack(
            0x45,
            0,
            _IPV4.size + length,
            0,
            0,
            _HOPS,
            _PROTOCOL,
            0,
            source.ip.packed,
            destination.ip.packed,
        )
    else:
        head = _IPV6.pack(6 << 28, length, _PROTOCOL, _HOPS, source.ip.packed, destination.ip.packed)
    return head + datagram


def _checksum(data: bytes) -> int:
    """https://www.rfc-editor.org/rfc/rfc1071; 0 is sent as all ones, for 0 means no checksum."""
    padded = data + b"\0" * (len(data) % 2)
    # The sum of 16-bit words modulo 2**16 - 1 is the whole number modulo 2**16 - 1.
    total = int.from_bytes(padded, "big") % 0xFFFF
    return 0xFFFF - total or 0xFFFF
