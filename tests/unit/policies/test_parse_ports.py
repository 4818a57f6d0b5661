"""Ports and ICMP types: refusals, and types by name."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.model import Port
from lockgate.tests.unit.policies.refusals import (
    P,
    Row,
    each_of,
    entry,
    refusal_of,
    spec,
)

REFUSALS: list[Row] = [
    (
        entry('toPorts:\n- ports: [{port: "80"}]\nicmps: [{fields: [{type: 8}]}]'),
        2,
        "spec.ingress[0]",
        "toPorts and icmps in one entry",
        "write one entry",
    ),
    (
        entry("toPorts:\n- ports:\n" + '  - {port: "80"}\n' * 41),
        3,
        f"{P}.ports",
        "41 ports in one entry, at most 40 are allowed",
        "write another",
    ),
    (entry("toPorts: [{}]"), 2, P, "the entry names no port", 'write - port: "0" for every port'),
    (entry("toPorts: [{ports: [{protocol: TCP}]}]"), 2, f"{P}.ports[0]", "the entry has no port", 'write port: "80"'),
    (
        entry("toPorts: [{ports: [{port: 80}]}]"),
        2,
        f"{P}.ports[0].port",
        "text expected, not the number 80",
        'quote it: "80"',
    ),
    (
        entry('toPorts: [{ports: [{port: "65536"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port 65536 is out of range",
        "write a number from 0 to 65535",
    ),
    (
        entry('toPorts: [{ports: [{port: "' + "9" * 100 + '"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port " + "9" * 80 + "... is out of range",
        "write a number",
    ),
    (
        entry('toPorts: [{ports: [{port: "080"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port 080 starts with a zero",
        'write "80"',
    ),
    (
        entry('toPorts: [{ports: [{port: "-1"}]}]'),
        2,
        f"{P}.ports[0].port",
        "'-1' is neither a port number nor a port name",
        "a name has",
    ),
    (
        entry('toPorts: [{ports: [{port: "a-name-that-is-too-long"}]}]'),
        2,
        f"{P}.ports[0].port",
        "'a-name-that-is-too-long' is neither a port number nor a port name",
        "a name has",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: 80}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "endPort 80 is below port 90",
        "write the smaller",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: 70000}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "70000 is out of range",
        "write a number from 0 to 65535",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: "100"}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "a whole number expected, not the text '100'",
        "",
    ),
    (
        entry('toPorts: [{ports: [{port: "0", endPort: 100}]}]'),
        2,
        f"{P}.ports[0].endPort",
        'port "0" means every port and takes no endPort',
        "remove endPort",
    ),
    (
        entry("toPorts: [{ports: [{port: http, endPort: 100}]}]"),
        2,
        f"{P}.ports[0].endPort",
        "endPort needs a port number",
        "write the number instead of 'http'",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: HTTP}]}]'),
        2,
        f"{P}.ports[0].protocol",
        "unknown protocol 'HTTP'",
        "use one of: TCP, UDP, SCTP, ANY",
    ),
    (
        entry('toPorts: [{ports: [{port: "8", protocol: ICMP}]}]'),
        2,
        f"{P}.ports[0].protocol",
        "ICMP has no ports",
        "write icmps",
    ),
    (
        entry("toPorts: [{ports: [{protocol: VRRP}]}]"),
        2,
        f"{P}.ports[0].protocol",
        "VRRP has no ports, and protocols of that kind cannot be named",
        "remove it",
    ),
    (entry("icmps: [{}]"), 2, "spec.ingress[0].icmps[0]", "the entry has no fields", "write fields"),
    (
        entry("icmps: [{fields: [{family: IPv5, type: 8}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].family",
        "unknown family 'IPv5'",
        "use one of: IPv4, IPv6",
    ),
    (
        entry("icmps: [{fields: [{family: IPv4}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0]",
        "the entry has no type",
        "write type",
    ),
    (
        entry("icmps: [{fields: [{type: 256}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "256 is out of range",
        "write a number from 0 to 255",
    ),
    (
        entry('icmps: [{fields: [{type: "256"}]}]'),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "256 is out of range",
        "write a number from 0 to 255",
    ),
    (
        entry("icmps: [{fields: [{family: IPv6, type: Photuris}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "unknown ICMP type 'Photuris' for IPv6",
        "write its number",
    ),
    (
        entry("icmps: [{fields: [" + "{type: 8}, " * 41 + "]}]"),
        2,
        "spec.ingress[0].icmps[0]",
        "41 fields in one entry, at most 40 are allowed",
        "write another",
    ),
]


@each_of(REFUSALS)
def test_a_refusal_has_its_place_and_sentence(row: Row) -> None:
    assert refusal_of(row) == row[1:]


@pytest.mark.parametrize(
    ("family", "written", "number"),
    [
        ("IPv4", "0", 0),
        ("IPv4", "8", 8),
        ("IPv4", "Echo", 8),
        ("IPv4", "EchoRequest", 8),
        ("IPv4", "ExtendedEchoRequest", 42),
        ("IPv4", "ExtendedEcho Reply", 43),
        ("IPv6", "EchoRequest", 128),
        ("IPv6", "NeighborSolicitation", 135),
        ("IPv6", "ICMPNodeInformationQuery", 139),
        ("IPv6", "InverseNeighborDiscoveryAdvertisement", 142),
        ("IPv6", "MobilePrefixSolicitation", 146),
        ("IPv6", "DuplicateAddressConfirmationCodeSuffix", 158),
        ("IPv6", "ExtendedEchoRequest", 160),
        ("IPv6", "ExtendedEchoReply", 161),
    ],
)
def test_icmp_types_by_number_and_name(family: str, written: str, number: int) -> None:
    parsed = parse_policies(spec(entry(f"icmps: [{{fields: [{{family: {family}, type: {written}}}]}}]")), "p.yaml")
    assert parsed.ok
    (rule,) = parsed.policies[0].rules[0].ingress[0].ports or ()
    assert rule.ports == (Port((Protocol.ICMP if family == "IPv4" else Protocol.ICMPV6,), number, number),)
