"""Ports as prefixes: how "any protocol", "any port of TCP", "8080" and "8000-8999" become keys of a prefix map.

A prefix covers the 24 bits protocol (8) and port (16). Length 0 is everything, 8 one protocol, 24 one port.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..policies.endpoint_policy import PortSpan, Protocol

PROTOCOL_NUMBERS = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.SCTP: 132,
    Protocol.ICMP: 1,
    Protocol.ICMPV6: 58,
}
_PROTOCOL_BITS = 8
_PORT_BITS = 16
WHOLE = _PROTOCOL_BITS + _PORT_BITS


class PortPrefix(NamedTuple):
    """`length` leading bits of `bits` (protocol << 16 | port) count; the others are zero."""

    length: int
    bits: int

    @property
    def protocol(self) -> int:
        """IP protocol number, 0 for every protocol."""
        return self.bits >> _PORT_BITS

    @property
    def port(self) -> int:
        """The first port."""
        return self.bits & ((1 << _PORT_BITS) - 1)

    def cut(self, length: int) -> PortPrefix:
        """The prefix of `length` bits that covers this one."""
        drop = WHOLE - length
        return PortPrefix(length, self.bits >> drop << drop)

    def covering(self) -> Iterator[PortPrefix]:
        """Every shorter prefix that covers this one, the longest first. Between 0 and 8 bits there are none."""
        for length in range(self.length - 1, _PROTOCOL_BITS - 1, -1):
            yield self.cut(length)
        if self.length > 0:
            yield EVERYTHING


EVERYTHING = PortPrefix(0, 0)


def exact(protocol: Protocol, port: int) -> PortPrefix:
    """One port (or ICMP type) of one protocol."""
    return PortPrefix(WHOLE, PROTOCOL_NUMBERS[protocol] << _PORT_BITS | port)


def split(span: PortSpan) -> Iterator[PortPrefix]:
    """The fewest prefixes that cover exactly `span`: at most 30."""
    number = PROTOCOL_NUMBERS[span.protocol] << _PORT_BITS
    first = span.first
    while first <= span.last:
        size = first & -first or 1 << _PORT_BITS
        while first + size - 1 > span.last:
            size >>= 1
        yield PortPrefix(WHOLE - size.bit_length() + 1, number | first)
        first += size
