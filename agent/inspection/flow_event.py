"""What `lockgate flows` shows: requests that Envoy refused or noted, and packets that the kernel dropped. Pure.

Envoy's access log has addresses and the name of what decided; here they become workloads, policies and rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from ...envoy.config.access_log import GREETING, NO_ROUTES, LoggedRequest, SocketEnd
from ...policies import Direction, Verdict
from ...policies.identity import Reserved
from ...redirect.drop_log import DroppedPacket
from ...redirect.port_prefix import PROTOCOL_NUMBERS
from ...redirect.reason import Reason
from ...xds import UNKNOWN_SUBJECT, names_a_rule


class FlowVerdict(StrEnum):
    """DENIED: Envoy refused the request. LOGGED: it passed, with a header that its policy notes (LOG). DROPPED: the
    kernel ended packets."""

    DENIED = "denied"
    LOGGED = "logged"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class FlowEnd:
    """One end of a flow; `endpoint` is empty for an address that is no workload's, `identity` 0 when not known."""

    ip: str
    port: int
    endpoint: str = ""
    identity: int = 0
    labels: tuple[str, ...] = ()
    of_node: bool = False  # processes of the node, whose address is not theirs alone

    def __str__(self) -> str:
        """Its name, or its address and what kind of address that is. Messages that have no ports show none."""
        host = self.endpoint or self.ip
        place = host if not self.port else f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        kind = next((each for each in self.labels if each.startswith("reserved:")), "")
        return f"{place} ({kind})" if kind and not self.endpoint else place

    def to_json(self) -> dict[str, Any]:
        """Every field."""
        return {
            "ip": self.ip,
            "port": self.port,
            "endpoint": self.endpoint,
            "identity": self.identity,
            "labels": list(self.labels),
        }


@dataclass(frozen=True, slots=True)
class FlowEvent:
    """One request. `policy` and `rule` are what decided; for a denial because nothing allowed it they are empty, and
    `considered` names the rules about this peer and port that did not match."""

    time: datetime
    verdict: FlowVerdict
    source: FlowEnd
    destination: FlowEnd
    method: str
    path: str
    host: str
    protocol: str
    code: int
    policy: str
    rule: str
    considered: tuple[str, ...]
    why: str
    mismatches: tuple[tuple[str, str], ...] = ()  # (rule, header)
    grpc: str = ""

    def to_json(self) -> dict[str, Any]:
        """One line of `-o json`."""
        request = {"method": self.method, "path": self.path, "host": self.host, "protocol": self.protocol}
        return {
            "time": self.time.isoformat(),
            "verdict": str(self.verdict),
            "source": self.source.to_json(),
            "destination": self.destination.to_json(),
            "http": {**request, "code": self.code} | ({"grpc": self.grpc} if self.grpc else {}),
            "policy": self.policy,
            "rule": self.rule,
            "considered": list(self.considered),
            "mismatches": [{"rule": rule, "header": header} for rule, header in self.mismatches],
            "why": self.why,
        }

    def __str__(self) -> str:
        request = f"{self.method} {self.path}" if self.protocol != "TLS" else f"TLS {self.host or 'without a name'}"
        return (
            f"{self.time:%H:%M:%S.%f}"[:12]
            + f"  {self.verdict:<7}  {self.source} -> {self.destination}  {request}  {self.code or '-'}  {self.why}"
        )


class Directory:
    """Who is behind an address, from what the local API says of endpoints and identities."""

    def __init__(
        self, endpoints: Iterable[Mapping[str, Any]] = (), identities: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        entries = list(endpoints)
        self._endpoints = {ip: entry for entry in entries for ip in entry["ips"]}
        self._of_node = {entry["id"]: entry for entry in entries if entry.get("cgroup")}
        self._by_identity: dict[int, list[Mapping[str, Any]]] = {}
        for entry in entries:
            self._by_identity.setdefault(entry["identity"], []).append(entry)
        self._prefixes: dict[IPv4Network | IPv6Network, Mapping[str, Any]] = {
            ip_network(prefix): identity for identity in identities for prefix in identity["prefixes"]
        }
        self._lengths = sorted({(network.version, network.prefixlen) for network in self._prefixes}, reverse=True)

    def end(self, address: SocketEnd, identity: int = 0) -> FlowEnd:
        """The end with its name and identity, as far as they are known. Who came with the node's address was given it
        by the node, and is known by `identity`, which Envoy has gone by."""
        found = self._at(address)
        if found.identity != Reserved.HOST or not (same := self._by_identity.get(identity)):
            return found
        name = same[0]["endpoint"] if len(same) == 1 else ""
        return FlowEnd(found.ip, found.port, name, identity, tuple(same[0]["labels"]))

    def of_node(self, number: int, address: SocketEnd) -> FlowEnd | None:
        """The end at processes of the node that are an endpoint with this number."""
        entry = self._of_node.get(number)
        if entry is None:
            return None
        return FlowEnd(
            str(address.ip), address.port, entry["endpoint"], entry["identity"], tuple(entry["labels"]), True
        )

    def _at(self, address: SocketEnd) -> FlowEnd:
        ip = str(address.ip)
        endpoint = self._endpoints.get(ip)
        if endpoint is not None:
            labels = tuple(endpoint["labels"])
            return FlowEnd(ip, address.port, endpoint["endpoint"], endpoint["identity"], labels)
        for version, length in self._lengths:
            if version == address.ip.version:
                identity = self._prefixes.get(ip_network((address.ip, length), strict=False))
                if identity is not None:
                    return FlowEnd(ip, address.port, "", identity["identity"], tuple(identity["labels"]))
        return FlowEnd(ip, address.port)


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which events are wanted. Ends are namespace/name, name, an address, a prefix or reserved:name; `path` is a
    regular expression found anywhere in the path."""

    verdict: FlowVerdict | None = None
    source: str = ""
    destination: str = ""
    path: str = ""
    method: str = ""
    policy: str = ""

    def wants(self, event: FlowEvent | DropEvent) -> bool:
        """True when the event passes every condition; a dropped packet has no request."""
        if isinstance(event, DropEvent):
            return (
                self.verdict in (None, FlowVerdict.DROPPED)
                and not (self.path or self.method)
                and (not self.policy or self._named((event.blame.policy, *event.blame.considered)))
                and _is_end(event.source, self.source)
                and _is_end(event.destination, self.destination)
            )
        return (
            (self.verdict is None or event.verdict is self.verdict)
            and _is_end(event.source, self.source)
            and _is_end(event.destination, self.destination)
            and (not self.path or re.search(self.path, event.path) is not None)
            and (not self.method or event.method == self.method)
            and (not self.policy or self._is_about(event))
        )

    def _is_about(self, event: FlowEvent) -> bool:
        names = (f"{event.policy}:", *event.considered, *(rule for rule, _ in event.mismatches))
        return self._named(name.partition(":")[0] for name in names)

    def _named(self, names: Iterable[str]) -> bool:
        policies = set(names)
        return self.policy in policies or any(name.rpartition("/")[2] == self.policy for name in policies)


def flow_event(request: LoggedRequest, directory: Directory) -> FlowEvent:
    """One line of Envoy's access log in the terms of policies."""
    source, destination = directory.end(request.source, request.source_identity), directory.end(request.destination)
    policy, rule, considered, why = _decided(request.rule, source, destination)
    mismatches = tuple((name, header) for name, _, header in (each.rpartition(" ") for each in request.mismatches))
    denied = bool(request.rule) or not mismatches
    if not denied:
        rules = ", ".join(f"{header} ({name})" for name, header in mismatches)
        policy, rule, considered, why = "", "", (), f"passed with a mismatch of {rules}"
    return FlowEvent(
        request.time,
        FlowVerdict.DENIED if denied else FlowVerdict.LOGGED,
        source,
        destination,
        request.method or "",
        request.path or "",
        request.host or "",
        request.protocol,
        request.code,
        policy,
        rule,
        considered,
        why,
        mismatches,
        request.grpc_method,
    )


_GREETINGS = {
    "another-server-name": "the client greeted the server again, by another name",
    "renegotiation": "the client greeted the server again where nobody can see by which name (renegotiation)",
    "unasked": "the client greeted again before the server asked for it",
    "unreadable": "the greeting is not what TLS says it must be",
}


def _decided(name: str, source: FlowEnd, destination: FlowEnd) -> tuple[str, str, tuple[str, ...], str]:
    """(policy, rule, rules considered, in words) of what an action's name says; see xds/compile/rule_name.py."""
    if not name:
        return "", "", (), "refused, and Envoy did not say by what"
    kind, _, rest = name.partition(":")
    if kind == "no-rule-matched":
        considered = tuple(rest.split(","))
        return "", "", considered, f"no request rule of {', '.join(considered)} matches"
    if kind == "identity":
        number, direction, _ = rest.split(":", 2)
        who = (source if direction == Direction.EGRESS else destination).endpoint or f"identity {number}"
        return "", "", (), f"no {direction} rule of {who} is about this peer and port"
    if name == UNKNOWN_SUBJECT:
        return "", "", (), "Envoy has not been told yet who an end of this node is"
    if name == NO_ROUTES:
        return "", "", (), "no routes have reached Envoy yet"
    if name.startswith(GREETING):
        return "", "", (), _GREETINGS.get(name.removeprefix(GREETING), name)
    if kind == "lockgate":
        return "", "", (), "no policy has reached Envoy yet"
    if not names_a_rule(name):
        return "", "", (), name
    return kind, rest, (), f"denied by {name}"


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


def _is_end(end: FlowEnd, wanted: str) -> bool:
    if not wanted or wanted in (end.endpoint, end.ip) or wanted in end.labels:
        return True
    if end.endpoint and end.endpoint.rpartition("/")[2] == wanted:
        return True
    if "/" in wanted:
        try:
            network = ip_network(wanted)
        except ValueError:
            return False
        return ip_network(end.ip).subnet_of(network) if _version(end.ip) == network.version else False  # type: ignore[arg-type]
    return False


def _version(ip: str) -> int:
    return 6 if ":" in ip else 4
