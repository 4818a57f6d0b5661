"""First packets of connections, as bytes of an Ethernet frame, and replies to them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.workload import IPAddress
from lockgate.redirect.port_prefix import PROTOCOL_NUMBERS

SYN, SYN_ACK = 0x02, 0x12
_IPV4, _IPV6 = 0x0800, 0x86DD


@dataclass(frozen=True, slots=True)
class Packet:
    """`dport` is the type of an ICMP message, and `sport` then its identifier."""

    source: IPAddress
    destination: IPAddress
    protocol: Protocol
    sport: int
    dport: int
    flags: int = SYN  # of TCP

    @property
    def has_reply(self) -> bool:
        """False for ICMP, and for what an end sends to itself, which cannot be told from its reply."""
        return self.protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP) and self.source != self.destination

    @property
    def reply(self) -> Packet:
        """What comes back first."""
        return replace(
            self,
            source=self.destination,
            destination=self.source,
            sport=self.dport,
            dport=self.sport,
            flags=SYN_ACK,
        )

    def frame(self) -> bytes:
        """The packet on the wire, to every card there: a socket may be chosen for it, but none takes it."""
        segment = self._segment()
        number = PROTOCOL_NUMBERS[self.protocol]
        if self.source.version == 6:
            head = struct.pack("!IHBB", 6 << 28, len(segment), number, 64)
        else:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 1, 0, 64, number, 0)
            whole = head + self.source.packed + self.destination.packed
            head = head[:10] + struct.pack("!H", _checksum(whole))
        kind = _IPV6 if self.source.version == 6 else _IPV4
        return b"\xff" * 6 + bytes(6) + struct.pack("!H", kind) + head + self._addresses() + segment

    def _addresses(self) -> bytes:
        return self.source.packed + self.destination.packed

    def _segment(self) -> bytes:
        match self.protocol:
            case Protocol.TCP:
                segment = struct.pack("!HHIIBBHHH", self.sport, self.dport, 1, 1, 0x50, self.flags, 1000, 0, 0)
                pseudo = self._addresses() + struct.pack("!II", len(segment), PROTOCOL_NUMBERS[Protocol.TCP])
                return segment[:16] + struct.pack("!H", _checksum(pseudo + segment)) + segment[18:]
            case Protocol.UDP:
                return struct.pack("!HHHH", self.sport, self.dport, 16, 0) + bytes(8)
            case Protocol.SCTP:
                return struct.pack("!HHII", self.sport, self.dport, 0, 0) + bytes(16)
            case _:
                return struct.pack("!BBHHH", self.dport, 0, 0, self.sport, 1) + bytes(16)


def _checksum(data: bytes) -> int:
    """https://www.rfc-editor.org/rfc/rfc1071"""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
