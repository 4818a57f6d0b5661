"""Flows: how they are written, and whom they name."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.errors import FlowError
from lockgate.policies.flow import Flow, find_peer, find_receiver
from lockgate.policies.frontends import NOBODY
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.request import DnsRequest, HttpRequest, KafkaRequest, Request, TlsRequest
from lockgate.policies.workload import Workload
from lockgate.policies.world import World

BASE: dict[str, Any] = {"from": "a", "to": "b", "port": 80}
WORLD = World.of(
    [],
    [
        endpoint_of(Workload(name, namespace, (), ips=(ip_address(ip),)))
        for name, namespace, ip in [
            ("web", "default", "10.0.0.1"),
            ("web", "shop", "10.0.0.2"),
            ("cart", "shop", "10.0.0.3"),
            ("twin", "shop", "10.0.0.4"),
            ("twin", "test", "10.0.0.5"),
        ]
    ],
    hosts=[ip_address("10.0.0.254")],
)


def test_a_whole_flow() -> None:
    flow = Flow.from_json(
        {
            "from": "default/frontend",
            "to": "default/api-server",
            "port": 80,
            "protocol": "TCP",
            "http": {"method": "GET", "path": "/api/v1/users", "host": "api", "headers": {"X": "y"}},
        }
    )
    request = HttpRequest("GET", "/api/v1/users", "api", {"x": "y"})
    assert flow == Flow("default/frontend", "default/api-server", 80, Protocol.TCP, request)


REQUESTS: list[tuple[dict[str, Any], Request | None]] = [
    ({}, None),
    ({"http": {}}, HttpRequest("GET", "/")),
    ({"http": {"headers": {"A": "1", "a": ["2", "3"]}}}, HttpRequest("GET", "/", headers={"a": "1,2,3"})),
    (
        {"grpc": {"service": "a.B", "method": "Get"}},
        HttpRequest("POST", "/a.B/Get", headers={"content-type": "application/grpc"}),
    ),
    (
        {"kafka": {"apiKey": "produce", "apiVersion": 3, "clientID": "c", "topics": ["t"]}},
        KafkaRequest(0, 3, "c", frozenset({"t"})),
    ),
    ({"kafka": {"apiKey": 18}}, KafkaRequest(18)),
    ({"kafka": {"apiKey": "18"}}, KafkaRequest(18)),
    ({"dns": {"name": "a.example"}}, DnsRequest("a.example")),
    ({"tls": {"serverName": "A.example"}}, TlsRequest("a.example")),
]


@pytest.mark.parametrize(("data", "request_"), REQUESTS)
def test_requests(data: dict[str, Any], request_: Request | None) -> None:
    assert Flow.from_json({**BASE, **data}).request == request_


@pytest.mark.parametrize(
    ("written", "protocol"), [("udp", Protocol.UDP), ("ICMPv6", Protocol.ICMPV6), ("sctp", Protocol.SCTP)]
)
def test_protocols_in_any_case(written: str, protocol: Protocol) -> None:
    assert Flow.from_json({**BASE, "port": "8", "protocol": written}) == Flow("a", "b", 8, protocol)


ERRORS: list[tuple[object, str]] = [
    ([], "the flow must be a JSON object"),
    ({"from": "a", "to": "b"}, "the flow has no 'port'"),
    ({"to": "b", "port": 1}, "the flow has no 'from'"),
    ({**BASE, "form": 1}, "the flow has an unknown field 'form'; did you mean 'from'?"),
    ({**BASE, "port": "http"}, "'port' must be a number from 0 to 65535, not 'http'"),
    ({**BASE, "port": 65536}, "'port' must be a number from 0 to 65535, not 65536"),
    ({**BASE, "port": True}, "'port' must be a number from 0 to 65535, not True"),
    ({**BASE, "from": 1}, "'from' must be text, not 1"),
    ({**BASE, "protocol": "HTTP"}, "unknown protocol 'HTTP'; use one of: TCP, UDP, SCTP, ICMP, ICMPv6"),
    ({**BASE, "http": {}, "dns": {"name": "a"}}, "the flow has both 'http' and 'dns'; one request only"),
    (
        {**BASE, "http": {"url": "/"}},
        "'http' has an unknown field 'url'; use one of: method, path, host, headers, tls, serverName",
    ),
    ({**BASE, "http": {"headers": []}}, "'headers' must be a JSON object of names and values"),
    ({**BASE, "http": {"headers": {"a": 1}}}, "the header 'a' must be text or a list of texts"),
    ({**BASE, "grpc": {"service": "a"}}, "'method' is missing"),
    ({**BASE, "kafka": {}}, "'kafka' has no 'apiKey'"),
    ({**BASE, "kafka": {"apiKey": "prduce"}}, "unknown Kafka API 'prduce'; did you mean 'produce'?"),
    ({**BASE, "kafka": {"apiKey": -1}}, "'kafka.apiKey' must be a number or a name, not -1"),
    ({**BASE, "kafka": {"apiKey": 0, "topics": "t"}}, "'kafka.topics' must be a list of texts"),
    ({**BASE, "kafka": {"apiKey": 0, "apiVersion": "1"}}, "'kafka.apiVersion' must be a number"),
]


@pytest.mark.parametrize(("data", "message"), ERRORS, ids=[row[1][:40] for row in ERRORS])
def test_errors_name_the_field(data: object, message: str) -> None:
    with pytest.raises(FlowError) as raised:
        Flow.from_json(data)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("text", "name", "identity"),
    [
        ("default/web", "default/web", None),
        ("web", "default/web", None),
        ("cart", "shop/cart", None),
        ("10.0.0.2", "shop/web", None),
        ("10.0.0.254", "10.0.0.254", 1),
        ("192.0.2.1", "192.0.2.1", 9),
        ("2001:db8::1", "2001:db8::1", 10),
        ("reserved:remote-node", "reserved:remote-node", 6),
    ],
)
def test_peers(text: str, name: str, identity: int | None) -> None:
    peer = find_peer(WORLD, text)
    assert peer.name == name
    if identity is None:
        assert peer.endpoint is not None
        assert peer.identity == peer.endpoint.identity
    else:
        assert (peer.identity, peer.endpoint) == (identity, None)


CLOSED = [ip_network("10.0.0.0/28"), ip_network("fd00::/64")]


@pytest.mark.parametrize("text", ["10.0.0.9", "fd00::9", "10.0.0.3", "shop/cart"])
def test_in_a_closed_network_there_is_nobody_but_endpoints_of_the_node_and_the_node(text: str) -> None:
    """The plan of the kernel's maps knows the rest no better: tests/unit/redirect/test_plan.py"""
    peer = find_peer(WORLD, text, CLOSED)
    assert (peer.identity, peer.endpoint) == (NOBODY, None)
    assert peer.cut_off.startswith(f"{text} is in ") and "a network of a container engine" in peer.cut_off


def test_who_is_known_there_is_somebody() -> None:
    cart = replace(endpoint_of(Workload("cart", "shop", (), ips=(ip_address("10.0.0.3"),))), ifindex=3)
    world = World.of([], [cart], hosts=[ip_address("10.0.0.14")])
    for text, identity in (("10.0.0.3", world.endpoints[0].identity), ("shop/cart", world.endpoints[0].identity)):
        assert find_peer(world, text, CLOSED) == find_peer(world, text)
        assert find_peer(world, text, CLOSED).identity == identity
    assert find_peer(world, "10.0.0.14", CLOSED).identity == 1
    assert find_peer(world, "10.0.0.16", CLOSED).identity == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "no workload is called 'nobody'"),
        ("shop/crt", "no workload is called 'shop/crt'; did you mean 'shop/cart'?"),
        ("twin", "'twin' is the name of several workloads (shop/twin, test/twin); write namespace/name"),
        ("", "no workload is called ''"),
        ("10.0.0.0/8", "no workload is called '10.0.0.0/8'"),
        ("reserved:moon", "unknown reserved identity 'moon'; use one of: host, world, unmanaged"),
    ],
)
def test_unknown_peers(text: str, message: str) -> None:
    with pytest.raises(FlowError) as raised:
        find_peer(WORLD, text)
    assert str(raised.value).startswith(message)


EVERY_NODE = b"""
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec: {nodeSelector: {}, ingress: [{}]}
"""
EVERYBODY = ["224.0.0.1", "ff02::1", "255.255.255.255", "0.0.0.0"]


def receiver(sender: str, text: str, protocol: Protocol = Protocol.UDP) -> tuple[int, bool]:
    """Of what is sent there: who it is, and whether the node's own policy judges it."""
    policy = parse_policies(EVERY_NODE, "p.yaml").policies
    world = World.of(
        policy,
        [replace(endpoint_of(Workload("cart", "shop", (), ips=(ip_address("10.0.0.3"),))), ifindex=3)],
        hosts=map(ip_address, ("192.0.2.1", "192.0.2.255", "10.0.0.15", "2001:db8::")),
        broadcasts=map(ip_address, ("192.0.2.255", "10.0.0.15")),
    )
    found = find_receiver(world, text, find_peer(world, sender), protocol, CLOSED)
    return found.identity, found.endpoint is not None


@pytest.mark.parametrize("text", [*EVERYBODY, "192.0.2.255"])
@pytest.mark.parametrize("sender", ["shop/cart", "198.51.100.1"])
def test_what_others_send_to_everybody_the_node_takes_up(sender: str, text: str) -> None:
    assert receiver(sender, text) == (1, True)
    lets_be = text in EVERYBODY and sender != "shop/cart"
    assert receiver(sender, text, Protocol.ICMP) == (1, not lets_be)


@pytest.mark.parametrize("sender", ["192.0.2.1", "reserved:host"])
@pytest.mark.parametrize(
    ("text", "identity"),
    [
        ("192.0.2.255", 9),
        ("10.0.0.15", NOBODY),  # the network of an engine
        ("224.0.0.1", 9),
        ("255.255.255.255", 9),
        ("ff02::1", 10),
        ("192.0.2.0", 9),
        ("0.0.0.0", 1),
        ("::", 1),
        ("2001:db8::", 1),
        ("192.0.2.1", 1),
    ],
)
def test_what_the_node_sends_to_everybody_goes_to_the_others(sender: str, text: str, identity: int) -> None:
    assert receiver(sender, text) == (identity, identity == 1)
