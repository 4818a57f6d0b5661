"""Reading `toPorts` and `icmps`: ports, protocols, TLS and the request rules that go with them."""

from __future__ import annotations

import re

from ..endpoint_policy import LAST_PORT, DnsRules, Protocol
from ..model import L7, HttpConditions, Port, PortRule
from .fields import Field, shorten
from .parse_l7 import parse_l7
from .parse_tls import parse_tls
from .unsupported import Feature

MAX_PORTS = 40  # of one toPorts entry, as in the reference; also of one icmps entry

ANY_PROTOCOL = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_PROTOCOLS: dict[str, tuple[Protocol, ...]] = {
    "TCP": (Protocol.TCP,),
    "UDP": (Protocol.UDP,),
    "SCTP": (Protocol.SCTP,),
    "ANY": ANY_PROTOCOL,
}
_WITHOUT_PORTS = frozenset({"VRRP", "IGMP", "GRE", "IPIP", "IPV6", "ESP", "AH"})
_PORT_FIELDS = ("ports", "rules", "serverNames", "terminatingTLS", "originatingTLS", "listener")
PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
_ICMP_TYPES = {
    "IPv4": {
        "EchoReply": 0,
        "DestinationUnreachable": 3,
        "Redirect": 5,
        "Echo": 8,
        "EchoRequest": 8,
        "RouterAdvertisement": 9,
        "RouterSelection": 10,
        "TimeExceeded": 11,
        "ParameterProblem": 12,
        "Timestamp": 13,
        "TimestampReply": 14,
        "Photuris": 40,
        "ExtendedEchoRequest": 42,
        "ExtendedEcho Request": 42,
        "ExtendedEchoReply": 43,
        "ExtendedEcho Reply": 43,
    },
    "IPv6": {
        "DestinationUnreachable": 1,
        "PacketTooBig": 2,
        "TimeExceeded": 3,
        "ParameterProblem": 4,
        "EchoRequest": 128,
        "EchoReply": 129,
        "MulticastListenerQuery": 130,
        "MulticastListenerReport": 131,
        "MulticastListenerDone": 132,
        "RouterSolicitation": 133,
        "RouterAdvertisement": 134,
        "NeighborSolicitation": 135,
        "NeighborAdvertisement": 136,
        "RedirectMessage": 137,
        "RouterRenumbering": 138,
        "ICMPNodeInformationQuery": 139,
        "ICMPNodeInformationResponse": 140,
        "InverseNeighborDiscoverySolicitation": 141,
        "InverseNeighborDiscoveryAdvertisement": 142,
        "HomeAgentAddressDiscoveryRequest": 144,
        "HomeAgentAddressDiscoveryReply": 145,
        "MobilePrefixSolicitation": 146,
        "MobilePrefixAdvertisement": 147,
        "DuplicateAddressRequestCodeSuffix": 157,
        "DuplicateAddressConfirmationCodeSuffix": 158,
        "ExtendedEchoRequest": 160,
        "ExtendedEchoReply": 161,
    },
}


def parse_port_rule(field: Field, egress: bool, deny: bool, namespace: str) -> PortRule | None:
    """One entry of toPorts. `deny` entries may hold ports only."""
    fields = field.mapping(_PORT_FIELDS)
    if fields is None:
        return None
    field.warn_of_nulls()
    if deny:
        for name in [name for name in fields if name != "ports"]:
            fields.pop(name).error(
                f"{name} is not possible in a deny rule", "deny whole ports, and allow the requests wanted"
            )
    listed = fields["ports"].items() if "ports" in fields else []
    if len(listed) > MAX_PORTS:
        fields["ports"].error(
            f"{len(listed)} ports in one entry, at most {MAX_PORTS} are allowed", "write another toPorts entry"
        )
    ports = tuple(port for item in listed if (port := parse_port(item)) is not None)
    l7 = parse_l7(fields["rules"], namespace) if "rules" in fields else None
    if "listener" in fields:
        _check_listener(fields, egress, l7)
    tls = parse_tls(field, fields, l7, namespace)
    if not listed and (l7 is not None or tls is not None):
        field.error("rules without ports", 'name the ports, for example - port: "80" with protocol: TCP')
    elif not listed:
        field.error("the entry names no port", 'write - port: "0" for every port')
    if isinstance(l7, DnsRules):
        _check_dns(fields, listed, egress)
    elif l7 is not None:
        _check_tcp(
            listed,
            "http"
            if isinstance(l7, HttpConditions) and l7.http
            else "grpc"
            if isinstance(l7, HttpConditions)
            else "kafka",
        )
    return PortRule(ports, l7, tls, field.path, field.line)


def parse_port(field: Field) -> Port | None:
    """{port, endPort, protocol}: a decimal string or a name; "0" is every port; no protocol is ANY."""
    fields = field.mapping(("port", "endPort", "protocol"))
    if fields is None:
        return None
    protocols: tuple[Protocol, ...] | None = ANY_PROTOCOL
    if "protocol" in fields:
        protocols = _protocol(fields["protocol"])
    if "port" not in fields:
        if protocols is not None:
            field.error("the entry has no port", 'write port: "80", a name, or "0" for every port')
        return None
    text = fields["port"].text()
    end = fields["endPort"].integer(0, LAST_PORT) if "endPort" in fields else 0
    if text is None or protocols is None or end is None:
        return None
    if not (text.isascii() and text.isdigit()):
        if not PORT_NAME.fullmatch(text.lower()):
            fields["port"].error(
                f"'{shorten(text)}' is neither a port number nor a port name",
                "a name has at most 15 lower-case letters, digits and single '-', with at least one letter",
            )
            return None
        if end:
            fields["endPort"].error("endPort needs a port number", f"write the number instead of '{text}'")
            return None
        return Port(protocols, 0, 0, text.lower())
    number = int(text[:9])
    if text[0] == "0" and text != "0":
        fields["port"].error(f"port {shorten(text)} starts with a zero", f'write "{number}"')
        return None
    if number > LAST_PORT:
        fields["port"].error(f"port {shorten(text)} is out of range", f"write a number from 0 to {LAST_PORT}")
        return None
    if number == 0:
        if end:
            fields["endPort"].error('port "0" means every port and takes no endPort', "remove endPort, or start at 1")
            return None
        return Port(protocols)
    if end and end < number:
        fields["endPort"].error(f"endPort {end} is below port {number}", "write the smaller number in port")
        return None
    return Port(protocols, number, end or number)


def _protocol(field: Field) -> tuple[Protocol, ...] | None:
    text = field.text()
    if text is None:
        return None
    if (protocols := _PROTOCOLS.get(text.upper())) is None:
        if text.upper() in ("ICMP", "ICMPV6"):
            field.error("ICMP has no ports", "write icmps next to the peers instead of toPorts")
        elif text.upper() in _WITHOUT_PORTS:
            field.error(
                f"{text} has no ports, and protocols of that kind cannot be named",
                "remove it; an entry without toPorts lets every protocol of its peers pass",
            )
        else:
            field.error(f"unknown protocol '{shorten(text)}'", f"use one of: {', '.join(_PROTOCOLS)}")
    return protocols


def _check_tcp(listed: list[Field], kind: str) -> None:
    """Request rules want a TCP port, said explicitly, and not every port at once."""
    for item in listed:
        port = item.peek()
        protocol = str(port.get("protocol") or "").upper()
        if protocol != "TCP":
            said = protocol if protocol in _PROTOCOLS else "ANY"
            why = f"{kind} rules on protocol {said}" if protocol else f"{kind} rules on a port without protocol"
            item.error(why, "write protocol: TCP")
        number = port.get("port")
        if isinstance(number, str) and number.isdigit() and int(number[:9]) == 0:
            item.error(f"{kind} rules on port 0", "name the ports that speak the protocol")


def _check_dns(fields: dict[str, Field], listed: list[Field], egress: bool) -> None:
    if not egress:
        fields["rules"].error("dns rules are possible in egress only", "move them to the egress of the clients")
    for item in listed:
        port = item.peek()
        if port.get("endPort"):
            item.error("dns rules take no endPort", "name each port")
        number = port.get("port")
        if isinstance(number, str) and number.isdigit() and int(number[:9]) == 0:
            item.error("dns rules on port 0", 'write port: "53"')


def _check_listener(fields: dict[str, Field], egress: bool, l7: L7 | None) -> None:
    listener = fields["listener"]
    listener.unsupported(Feature.LISTENER)
    inner = listener.mapping(("envoyConfig", "name", "priority"))
    if inner is not None and "envoyConfig" in inner:
        inner["envoyConfig"].mapping(("kind", "name"))
    if not egress:
        listener.error("a listener is possible in egress only", "remove it")
    if l7 is not None:
        listener.error("a listener excludes rules", "remove one of the two")


def parse_icmps(field: Field) -> PortRule | None:
    """All of `icmps`: the message types, as ports of the protocols ICMP and ICMPv6."""
    ports: list[Port] = []
    for entry in field.items():
        fields = entry.mapping(("fields",))
        if fields is None:
            continue
        listed = fields["fields"].items() if "fields" in fields else []
        if not listed:
            entry.error("the entry has no fields", "write fields: [{family: IPv4, type: 8}]")
        if len(listed) > MAX_PORTS:
            entry.error(f"{len(listed)} fields in one entry, at most {MAX_PORTS} are allowed", "write another entry")
        ports += [port for item in listed if (port := _icmp_field(item)) is not None]
    return PortRule(tuple(ports), path=field.path, line=field.line) if ports else None


def _icmp_field(field: Field) -> Port | None:
    fields = field.mapping(("family", "type"))
    if fields is None:
        return None
    family = fields["family"].text() if "family" in fields else "IPv4"
    if family is None:
        return None
    if family not in _ICMP_TYPES:
        fields["family"].error(f"unknown family '{shorten(family)}'", "use one of: IPv4, IPv6")
        return None
    if "type" not in fields:
        field.error("the entry has no type", "write type: and a number, or a name such as EchoRequest")
        return None
    value = fields["type"].value
    if isinstance(value, str) and not value.isdigit():
        number = _ICMP_TYPES[family].get(value)
        if number is None:
            fields["type"].error(f"unknown ICMP type '{shorten(value)}' for {family}", "write its number")
    elif isinstance(value, str):
        number = int(value[:9])
        if number > 255:
            fields["type"].error(f"{shorten(value)} is out of range", "write a number from 0 to 255")
            return None
    else:
        number = fields["type"].integer(0, 255)
    if number is None:
        return None
    return Port((Protocol.ICMP if family == "IPv4" else Protocol.ICMPV6,), number, number)
