"""Why a packet passed or was dropped: the counters' names, mirroring bpf/reason.h."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..policies.endpoint_policy import Direction


class Reason(IntEnum):
    """Numbers are the kernel's; the text says what an operator wants to know."""

    ALLOWED = 0
    REDIRECTED = 1
    POLICY = 2
    NO_PROXY = 3
    NOT_TCP = 4
    UNPROXIED = 5
    SPOOFED = 6
    UNSYNCED = 7
    ADDRESS = 8
    FRAGMENT = 9
    UNSUPPORTED = 10
    MALFORMED = 11
    REVOKED = 12
    OVERLOAD = 13

    @property
    def dropped(self) -> bool:
        """True for every reason that ended a packet."""
        return self > Reason.REDIRECTED

    @property
    def text(self) -> str:
        """One line for a person."""
        return _TEXTS[self]


_TEXTS = {
    Reason.ALLOWED: "allowed by policy, straight on",
    Reason.REDIRECTED: "handed to Envoy or to the DNS proxy",
    Reason.POLICY: "no rule allows it, or one denies it",
    Reason.NO_PROXY: "an L7 rule covers it and its proxy does not listen",
    Reason.NOT_TCP: "an L7 rule covers it and no proxy takes its protocol",
    Reason.UNPROXIED: "an L7 rule covers it and it came round the proxy",
    Reason.SPOOFED: "its source address is not the endpoint's",
    Reason.UNSYNCED: "the endpoint has no policy yet, or the container or pod is not known",
    Reason.ADDRESS: "its address is loopback, unknown, another endpoint's, or a service's own",
    Reason.FRAGMENT: "an IP fragment",
    Reason.UNSUPPORTED: "a protocol no policy can name, an IPv6 extension header, a VLAN tag, a tunnel of the node",
    Reason.MALFORMED: "a header that cannot be read whole",
    Reason.REVOKED: "its live connection is not allowed any more (or not past the proxy): its sender is reset",
    Reason.OVERLOAD: "more questions than the DNS proxy takes of one endpoint",
}


@dataclass(frozen=True, slots=True)
class Counter:
    """Packets that left (egress) or were about to reach (ingress) the node's endpoints, by what became of them."""

    direction: Direction
    reason: Reason
    packets: int

    @property
    def dropped(self) -> bool:
        """True when the packets went nowhere."""
        return self.reason.dropped
