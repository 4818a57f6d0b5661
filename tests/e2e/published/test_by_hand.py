"""Addresses that somebody translates by hand, with nftables, on a node without an engine (as `hostPort` does)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from lockgate.agent.playground import NODE_IPV4, Namespace, Outside
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Line, LiveNode, Web, fetch, live_node
from lockgate.tests.e2e.published.ground import HTTP, OTHER, PLAIN
from lockgate.tests.e2e.talk import ended, stream, talk
from lockgate.tests.e2e.udp_echo import UdpEcho
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

NODES = {4: "192.0.2.1", 6: "2001:db8::1"}
FAR = {4: "198.51.100.7", 6: "2001:db8:7::7"}  # behind a link for shorter packets
LONG_PORT = 18090
ECHO, NOBODY = 18053, 18054  # translated to a port of UDP where somebody listens, and where nobody does
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: by-hand, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromCIDR: [192.0.2.9/32, 198.51.100.7/32, "2001:db8::9/128", "2001:db8:7::7/128"]
    toPorts:
    - ports: [{port: "8081", protocol: TCP}, {port: "53", endPort: 54, protocol: UDP}]
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: "/open"}]}
"""
WITHOUT_UDP = POLICY.replace(', {port: "53", endPort: 54, protocol: UDP}', "")
LARGE = "200 " + "x" * 300_000


@pytest.fixture(name="node", scope="module")
def a_node_without_an_engine() -> Iterator[LiveNode]:
    with live_node(start=False) as node, closing(UdpEcho(node.backend, 53)):
        node.ground.outside().add_address(OTHER)
        for path in node.policies.iterdir():
            path.unlink()
        node.write("by-hand", POLICY)
        node.webs.pop("backend").close()
        for port in (8080, 8081):
            node.webs[str(port)] = Web(node.backend, port, LARGE[4:].encode())
        translate(node)
        node.start_agent()
        yield node


@pytest.fixture(name="outside")
def the_world(node: LiveNode) -> Outside:
    for web in node.webs.values():
        web.seen.clear()
    return node.ground.outside()


def translate(node: LiveNode, masquerade: bool = False) -> None:
    """The node's ports lead to the pod."""
    rules = []
    for family, own, there in (
        ("ip", NODES[4], node.backend.ipv4),
        ("ip6", NODES[6], f"[{node.backend.ipv6}]"),
    ):
        for protocol, port, its in (("tcp", HTTP, 8080), ("tcp", PLAIN, 8081), ("udp", ECHO, 53), ("udp", NOBODY, 54)):
            rules.append(f"{family} daddr {own} {protocol} dport {port} dnat {family} to {there}:{its}")
    chains = ["chain before {", "type nat hook prerouting priority dstnat", *rules, "}"]
    if masquerade:
        chains += ["chain behind {", "type nat hook postrouting priority srcnat"]
        chains += [f"oifname {node.backend.interface} masquerade", "}"]
    text = "\n".join(["table inet published", "delete table inet published", "table inet published {", *chains, "}\n"])
    loaded = node.node.run(["nft", "-f", "-"], input=text)
    assert loaded.returncode == 0, loaded.stderr


def large(where: Namespace, version: int, port: int, path: str, patience: float = 10 * GLANCE) -> str:
    """What comes of a request; OK where the whole body came."""
    came = fetch(where, NODES[version], port, path, patience=patience)
    return OK if came == LARGE else came


@pytest.mark.parametrize("version", [4, 6])
def test_requests(node: LiveNode, outside: Outside, version: int) -> None:
    assert [large(outside, version, HTTP, path) for path in ("/open", "/shut")] == [OK, DENIED]
    assert large(outside, version, PLAIN, "/any") == OK
    seen = {(each.client, each.path) for web in node.webs.values() for each in web.seen}
    assert seen == {(str(outside.ips[version == 6]), path) for path in ("/open", "/any")}


@pytest.fixture
def masquerade(node: LiveNode) -> Iterator[None]:
    """The pod sees the node's address."""
    translate(node, masquerade=True)
    yield
    translate(node)


@pytest.mark.parametrize("version", [4, 6])
def test_who_is_given_the_nodes_address_is_judged_as_who_it_is(
    node: LiveNode, outside: Outside, masquerade: None, version: int
) -> None:
    assert [large(outside, version, HTTP, path) for path in ("/open", "/shut")] == [OK, DENIED]
    assert large(outside, version, PLAIN, "/any") == OK
    seen = {each.client for web in node.webs.values() for each in web.seen}
    assert seen and str(outside.ips[version == 6]) not in seen
    told = node.lockgate("flows", "--verdict", "denied").out
    assert "GET /shut  403" in told
    for port in (HTTP, PLAIN):
        if version == 4:
            with pytest.raises(TimeoutError):
                Line(outside, NODES[4], port, GLANCE, source=OTHER)


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_who_is_given_the_nodes_address(
    node: LiveNode, outside: Outside, masquerade: None, version: int
) -> None:
    """Conntrack forgets whose they were before the kernel's programs do, and another may come with the same port."""
    ask = partial(datagram, outside)
    to = NODES[version], ECHO
    assert [ask(to, port=41060) for _ in range(2)] == ["hello"] * 2
    assert ask((NODES[version], NOBODY)) == "nobody"
    if version == 4:
        netns.run_in(node.node.path, forget_tracked)
        assert ask(to, str(OTHER), 41060) == DROPPED
        netns.run_in(node.node.path, forget_tracked)
        assert ask(to, port=41060) == "hello"


def test_datagrams_by_a_port_that_the_server_has_asked(node: LiveNode, outside: Outside, masquerade: None) -> None:
    """What it has said to the node makes nobody else's the node's answer, once conntrack gives others that port."""
    with netns.run_in(
        node.backend.path, partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
    ) as raw:
        for own in (NODES[4], str(NODE_IPV4)):
            raw.sendto(struct.pack("!HHHH", 53, 41061, 8, 0), (own, 0))
    netns.run_in(node.node.path, forget_tracked)
    assert datagram(outside, (NODES[4], ECHO), str(OTHER), 41061) == DROPPED
    netns.run_in(node.node.path, forget_tracked)
    assert datagram(outside, (NODES[4], ECHO), port=41061) == "hello"


def forget_tracked() -> None:
    """What conntrack knows."""
    with NFCTSocket() as tracked:
        tracked.flush()


LONG = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: long, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromCIDR: [PREFIX]
    toPorts: [{ports: [{port: "7000", protocol: TCP}]RULES}]
"""
STREAMS = ', rules: {http: [{path: "/stream"}]}'


@pytest.fixture
def listener(node: LiveNode) -> Iterator[socket.socket]:
    """Of the API server's pod. Whoever asks the node at this port comes to it with the node's address."""
    lines = ["table inet long {", "chain before {", "type nat hook prerouting priority dstnat"]
    lines += [f"ip daddr {NODES[4]} tcp dport {LONG_PORT} dnat ip to {node.api.ipv4}:7000", "}"]
    lines += ["chain behind {", "type nat hook postrouting priority srcnat"]
    lines += [f"oifname {node.api.interface} masquerade", "}", "}"]
    assert node.node.run(["nft", "-f", "-"], input="\n".join(lines) + "\n").returncode == 0
    with netns.run_in(node.api.path, partial(socket.create_server, ("0.0.0.0", 7000))) as made:
        made.settimeout(20)
        yield made
    assert node.node.run(["nft", "delete", "table", "inet", "long"]).returncode == 0


def say(node: LiveNode, prefix: str, rules: str = "") -> Path:
    """The API server's policy, when it is in force."""
    before = node.status()["agent"]["revision"]
    path = node.write("long", LONG.replace("PREFIX", prefix).replace("RULES", rules))
    node.until("it is in force", lambda: node.ok() and node.status()["agent"]["revision"] > before)
    return path


@pytest.mark.parametrize("rules", ["", STREAMS], ids=["l4", "by request"])
def test_a_connection_of_who_is_given_the_nodes_address(
    node: LiveNode, outside: Outside, listener: socket.socket, rules: str
) -> None:
    """Goes on while the policies let it in. Then the client is told, though it says nothing, and the server at its next
    word at the latest."""
    policy = say(node, "192.0.2.0/24", rules)
    try:
        with (stream if rules else talk)(outside, NODES[4], LONG_PORT, listener) as made:
            assert made.lives()
            say(node, "192.0.2.0/24, 203.0.113.0/24", rules)
            assert made.lives()
            say(node, "198.51.100.0/24", rules)
            node.until("the client is told", partial(ended, made.client))
            with suppress(OSError):
                made.server.sendall(b"hello")
            node.until("the server is told", partial(ended, made.server))
            with pytest.raises(TimeoutError):
                Line(outside, NODES[4], LONG_PORT, GLANCE)
    finally:
        policy.unlink()
        node.until("it is gone", lambda: len(node.lockgate("policy", "list", "-o", "json").data) == 1)


@pytest.fixture(name="far", scope="module")
def a_client_behind_a_narrow_link(node: LiveNode) -> Namespace:
    """The world's router has to say of long packets that they do not fit; the client does not know."""
    outside = node.ground.outside()
    far = Namespace(f"{node.node.netns}-far")

    def run(where: Namespace, *lines: str) -> None:
        for line in lines:
            ended = where.run(line.split())
            assert ended.returncode == 0, (line, ended.stderr)

    run(
        outside,
        f"ip netns add {far.netns}",
        f"ip link add far mtu 1280 type veth peer name eth0 netns {far.netns}",
        "ip addr add 198.51.100.1/24 dev far",
        "ip addr add 2001:db8:7::1/64 dev far nodad",
        "ip link set far up",
        "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    run(
        far,
        f"ip addr add {FAR[4]}/24 dev eth0",
        f"ip addr add {FAR[6]}/64 dev eth0 nodad",
        "ip link set eth0 up",
        "ip route add default via 198.51.100.1",
        "ip route add default via 2001:db8:7::1",
    )
    return far


@pytest.mark.parametrize("port", [HTTP, PLAIN])
@pytest.mark.parametrize("version", [4, 6])
def test_errors_of_the_path_reach_whom_they_are_for(
    node: LiveNode, outside: Outside, far: Namespace, version: int, port: int
) -> None:
    """Envoy's socket, or the pod's: else nothing that is long would arrive."""
    assert large(far, version, port, "/open") == OK
    sender = node.node if port == HTTP else node.backend
    assert "mtu 1280" in sender.run(["ip", "route", "get", FAR[version]]).stdout


def datagram(where: Namespace, to: tuple[str, int], source: str = "", port: int = 0) -> str:
    """What comes back for a datagram."""
    version = 6 if ":" in to[0] else 4

    def send() -> str:
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as made:
            made.settimeout(2 * GLANCE)
            made.bind((source or ("::" if version == 6 else "0.0.0.0"), port))
            made.connect(to)
            made.send(b"hello")
            try:
                return made.recv(100).decode()
            except TimeoutError:
                return DROPPED
            except ConnectionRefusedError:
                return "nobody"

    return netns.run_in(where.path, send)


@pytest.mark.parametrize("version", [4, 6])
def test_udp(node: LiveNode, outside: Outside, version: int) -> None:
    ask = partial(datagram, outside)
    assert ask((NODES[version], ECHO)) == "hello"
    assert ask((NODES[version], NOBODY)) == "nobody", "an ICMP error comes back as the node's"
    own = str(node.backend.ips[version == 6])
    for to in ((NODES[version], ECHO), (own, 53), (NODES[version], ECHO)):
        assert ask(to, port=41053) == "hello", "one port of the client for both ways"
    if version == 4:
        assert ask((NODES[4], ECHO), str(OTHER)) == DROPPED


def test_udp_that_is_no_longer_allowed(node: LiveNode, outside: Outside) -> None:
    ask = partial(datagram, outside, (NODES[4], ECHO), port=41054)
    assert ask() == "hello"
    node.write("by-hand", WITHOUT_UDP)
    try:
        node.becomes(DROPPED, ask)
    finally:
        node.write("by-hand", POLICY)
        node.becomes("hello", ask)
