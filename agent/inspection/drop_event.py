"""Packets that the kernel dropped, as `lockgate flows` shows them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ...envoy.config.access_log import SocketEnd
from ...policies import Direction, Verdict
from ...redirect.drop_log import DroppedPacket
from ...redirect.port_prefix import PROTOCOL_NUMBERS
from ...redirect.reason import Reason
from .flow_end import Directory, FlowEnd, FlowVerdict


@dataclass(frozen=True, slots=True)
class Drops:
    """Packets that the kernel dropped for one reason between two looks at its counters."""

    time: datetime
    direction: str
    reason: str
    meaning: str
    packets: int

    def to_json(self) -> dict[str, Any]:
        """One line of `-o json`."""
        return {
            "time": self.time.isoformat(),
            "verdict": str(FlowVerdict.DROPPED),
            "direction": self.direction,
            "reason": self.reason,
            "meaning": self.meaning,
            "packets": self.packets,
        }

    def __str__(self) -> str:
        packets = "packet" if self.packets == 1 else "packets"
        begin = f"{self.time:%H:%M:%S.%f}"[:12] + f"  {FlowVerdict.DROPPED:<7}  {self.packets} {packets}"
        return f"{begin}, {self.direction}, {self.reason}: {self.meaning}"


@dataclass(frozen=True, slots=True)
class Blame:
    """What the policies of now say of a packet that they dropped: the rule that denies it
    (empty: nothing allows it), the policies whose rules were asked, and a sentence."""

    policy: str = ""
    rule: str = ""
    considered: tuple[str, ...] = ()
    why: str = ""


NOBODY = Blame()


def asks_policies(packet: DroppedPacket) -> bool:
    """True when policies dropped it, and they can be asked: both ends, port and protocol are known."""
    return packet.reason is Reason.POLICY and packet.protocol in _PROTOCOLS and not packet.source.is_unspecified


def blame(explained: Mapping[str, Any]) -> Blame:
    """From the local API's explanation of the connection. Nobody, when the policies of now would let it pass."""
    for direction in Direction:
        side = explained[str(direction)]
        if side["verdict"] == Verdict.DENY:
            written = (item["policy"] for item in side["considered"] if item["policy"] and item["source"])
            asked = tuple(dict.fromkeys(written))
            if side["policy"]:
                return Blame(side["policy"], side["rule"], asked, side["reason"])
            return Blame(
                considered=asked, why=f"no {direction} rule of {_some(asked)} allows it" if asked else side["reason"]
            )
    return NOBODY


def _some(names: Sequence[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@dataclass(frozen=True, slots=True)
class DropEvent:
    """One packet that the kernel dropped."""

    time: datetime
    source: FlowEnd
    destination: FlowEnd
    protocol: str
    direction: str
    reason: str
    meaning: str
    blame: Blame = NOBODY

    def to_json(self) -> dict[str, Any]:
        """One line of `-o json`."""
        return {
            "time": self.time.isoformat(),
            "verdict": str(FlowVerdict.DROPPED),
            "source": self.source.to_json(),
            "destination": self.destination.to_json(),
            "protocol": self.protocol,
            "direction": self.direction,
            "reason": self.reason,
            "meaning": self.meaning,
            "policy": self.blame.policy,
            "rule": self.blame.rule,
            "considered": list(self.blame.considered),
            "why": self.blame.why or self.meaning,
        }

    def __str__(self) -> str:
        ends = f"{self.source} -> {self.destination}"
        begin = f"{self.time:%H:%M:%S.%f}"[:12] + f"  {FlowVerdict.DROPPED:<7}  {ends}"
        return f"{begin}  {self.protocol}  {self.direction}, {self.reason}: {self.blame.why or self.meaning}"


def drop_event(packet: DroppedPacket, booted: datetime, directory: Directory, blamed: Blame = NOBODY) -> DropEvent:
    """`booted` is the moment from which the kernel counts."""
    return DropEvent(
        booted + timedelta(microseconds=packet.at // 1000),
        *ends(packet, directory),
        protocol_of(packet),
        str(packet.direction),
        packet.reason.name.lower().replace("_", "-"),
        packet.reason.text,
        blamed,
    )


def ends(packet: DroppedPacket, directory: Directory) -> tuple[FlowEnd, FlowEnd]:
    """Who sent it and who was to get it. Processes of the node are known by where it was dropped: their address is the
    node's."""
    source = SocketEnd(packet.source, packet.source_port)
    destination = SocketEnd(packet.destination, packet.destination_port)
    leaving = packet.direction is Direction.EGRESS
    here = directory.of_node(packet.ifindex, source if leaving else destination)
    return (
        here if here is not None and leaving else directory.end(source),
        here if here is not None and not leaving else directory.end(destination),
    )


def asked_as(end: FlowEnd) -> str:
    """What `explain` is to call it: by its address, unless that does not say who it is."""
    return end.endpoint if end.endpoint and end.of_node else end.ip


_PROTOCOLS = {number: protocol.value for protocol, number in PROTOCOL_NUMBERS.items()}


def protocol_of(packet: DroppedPacket) -> str:
    """Its name, or its number, or a question mark."""
    return _PROTOCOLS.get(packet.protocol, str(packet.protocol) if packet.protocol else "?")


def drops_between(
    before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]], now: datetime
) -> list[Drops]:
    """From two answers of the local API about the data path's counters."""
    known = {(each["direction"], each["reason"]): each["packets"] for each in before}
    found = []
    for each in after:
        more = each["packets"] - known.get((each["direction"], each["reason"]), 0)
        if each["dropped"] and more > 0:
            found.append(Drops(now, each["direction"], each["reason"], each["meaning"], more))
    return found
