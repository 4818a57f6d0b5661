"""Every way round the policy that we know of, tried from a real pod with raw packets; docs/security.md has the table.

`arrives` looks at the server pod's own capture: an attack has failed when nothing of it is there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address

import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Namespace
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e import wire
from lockgate.tests.e2e.field import L4, L7, POLICY, SHUT, Field, Packets, Recorder, field, pair
from lockgate.tests.e2e.fragments import (
    fragments_of_a_datagram,
    fragments_of_ipv6,
    overlapping_fragments,
    tiny_fragments,
)
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, REFUSED, fetch
from lockgate.tests.e2e.wire import ACK, ICMPV6, TCP, UDP, Wire, ip

REQUEST = b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field() as made:
        yield made


@pytest.mark.parametrize(
    ("family", "packets"),
    [
        (0, fragments_of_a_datagram),
        (0, tiny_fragments),
        (0, overlapping_fragments),
        (1, fragments_of_ipv6),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fragments(ground: Field, family: int, packets: Packets) -> None:
    """Of allowed traffic, too: nobody can judge the second without the first."""
    client, server = ground.ends(family)
    port, mark = ground.port(), os.urandom(16)
    shut = pair(port, SHUT)
    assert ground.arrives(ground.frontend, packets(client, server, port, mark), [mark[:8], shut, pair(port, L4)]) == []


OPTIONS = {
    "padding": b"\x01" * 8,
    "router alert": b"\x94\x04\0\0",
    "loose source route": b"\x83\x07\x04" + NODE_IPV4.packed + b"\0",
    "strict source route": b"\x89\x07\x04" + NODE_IPV4.packed + b"\0",
    "record route": b"\x07\x07\x04" + bytes(4) + b"\0",
    # Where the ports would be without options stands an allowed pair.
    "ports": pair(20, L4) + bytes(4),
    "longest": b"\x01" * 40,
}


@pytest.mark.parametrize("option", OPTIONS)
def test_ipv4_options(ground: Field, option: str) -> None:
    client, server = ground.ends(0)
    port = ground.port()
    packets = [
        ip(client, server, TCP, wire.tcp(client, server, port, there), options=OPTIONS[option]) for there in (L7, SHUT)
    ]
    assert ground.arrives(ground.frontend, packets, [pair(port, L7), pair(port, SHUT)]) == []


HEADERS = {
    "hop by hop": (0, b"%c\0\x01\x04\0\0\0\0"),
    "routing": (43, b"%c\0\x04\0\0\0\0\0"),
    "authentication": (51, b"%c\x04\0\0" + bytes(20)),
    "encapsulation": (50, bytes(8)),
    "destination options": (60, b"%c\0\x01\x04\0\0\0\0"),
    "mobility": (135, b"%c\0\0\0\0\0\0\0"),
    "host identity": (139, b"%c\0\0\0\0\0\0\0"),
    "shim6": (140, b"%c\0\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("there", [L7, L4, SHUT])
@pytest.mark.parametrize("header", HEADERS)
def test_ipv6_extension_headers(ground: Field, header: str, there: int) -> None:
    """Also before allowed traffic: a chain of them could hide anything from who reads only the first."""
    client, server = ground.ends(1)
    port = ground.port()
    number, form = HEADERS[header]
    segment = wire.tcp(client, server, port, there)
    once = form.replace(b"%c", bytes([TCP])) + segment
    twice = form.replace(b"%c", b"\x3c") + b"\x06\0\x01\x04\0\0\0\0" + segment
    before = ground.counted("unsupported")
    packets = [ip(client, server, number, payload) for payload in (once, twice)]
    assert ground.arrives(ground.frontend, packets, [pair(port, there)]) == []
    assert ground.counted("unsupported") >= before + 2


@pytest.fixture
def jumbo(ground: Field) -> None:
    """Room for packets of two pages on the links of the frontend and the server."""
    for pod in (ground.frontend, ground.server):
        for where, link in ((pod, "eth0"), (ground.node.node, pod.interface)):
            subprocess.run(["ip", "-n", where.netns, "link", "set", link, "mtu", "9000"], check=True)


@pytest.mark.usefixtures("jumbo")
@pytest.mark.parametrize("more", [None, 0, 2, 13], ids=["nothing", "the ip header", "half of the ports", "no flags"])
@FAMILIES
def test_headers_in_pieces_of_memory(ground: Field, family: int, more: int | None) -> None:
    """They are read wherever they lie: what is allowed passes, and nothing else."""
    client, server = ground.ends(family)
    first = 0 if more is None else (20, 40)[family] + more
    for there, passes in ((L4, True), (SHUT, False)):
        port, refused = ground.port(), ground.counted("policy")
        packets = [
            ip(client, server, UDP, wire.udp(client, server, port, there, bytes(8000))),
            ip(client, server, TCP, wire.tcp(client, server, port, there, data=bytes(8000))),
        ]
        came = ground.arrives(ground.frontend, packets, [pair(port, there)], first_piece=first)
        assert sum(len(frame) > 8000 for frame in came) == (2 if passes else 0)  # the client's stack may reset, too
        assert ground.counted("policy") - refused == (0 if passes else 2)


@FAMILIES
@pytest.mark.parametrize("number", [4, 41, 47, 59, 94, 115, 136, 255])
def test_tunnels_and_other_protocols(ground: Field, family: int, number: int) -> None:
    """What a packet carries inside is not judged, so it does not pass."""
    client, server = ground.ends(family)
    mark = os.urandom(8)
    inner = ip(client, server, UDP, wire.udp(client, server, ground.port(), SHUT, mark))
    outer = [ip(client, server, number, head + inner) for head in (b"", b"\0\0\x08\0")]
    assert ground.arrives(ground.frontend, outer, [mark]) == []


@FAMILIES
def test_sources_that_are_not_the_pods_own(ground: Field, family: int) -> None:
    client, server = ground.ends(family)
    others = {
        0: (client, server, NODE_IPV4, *map(ip_address, ("169.254.1.1", "127.0.0.1", "0.0.0.0", "8.8.8.8"))),
        1: (client, server, NODE_IPV6, wire.mapped(ground.frontend.ipv4), *map(ip_address, ("::1", "::", "fe80::1"))),
    }
    before = ground.counted("spoofed")
    for claimed in others[family]:
        port, mark = ground.port(), os.urandom(8)
        packets = [
            ip(claimed, server, UDP, wire.udp(claimed, server, port, L4, mark)),
            ip(claimed, server, TCP, wire.tcp(claimed, server, port, L4, data=mark)),
            ip(claimed, server, TCP, wire.tcp(claimed, server, port, L7, ACK, data=mark)),
        ]
        assert ground.arrives(ground.intruder, packets, [mark]) == [], claimed
    assert ground.counted("spoofed") > before


@FAMILIES
def test_a_pod_that_claims_an_address_on_its_link(ground: Field, family: int) -> None:
    """By ARP or neighbour discovery: nothing for the other pod comes here, and the node believes nothing."""
    client, server = ground.ends(family)
    attacker = ground.wire(ground.intruder)
    hop = ip_address("169.254.1.1") if family == 0 else IPv6Address("fe80::1")
    before = ground.counted("spoofed")
    for claimed in (client, server, hop):
        if family == 0:
            attacker.send_frame(wire.arp(claimed, attacker.mac, claimed))
            attacker.send_frame(wire.arp(claimed, attacker.mac, hop, operation=1))
            continue
        override = struct.pack("!I", 0x20000000) + claimed.packed + b"\x02\x01" + attacker.mac
        everyone = ip_address("ff02::1")
        for source in (claimed, ground.intruder.ipv6):
            message = wire.icmpv6(source, everyone, 136, override)
            attacker.send(ip(source, everyone, ICMPV6, message, hops=255))
    ground.node.until("the claims are refused", lambda: ground.counted("spoofed") >= before + 6)
    attacker.received()
    assert ground.say(family, b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert not [frame for frame in attacker.received() if client.packed in frame and server.packed in frame]
    neighbours = json.loads(ground.node.node.run(["ip", "-j", "neigh"], check=True).stdout)
    here = [each for each in neighbours if each["dev"] == ground.intruder.interface]
    believed = {each["dst"] for each in here if each.get("lladdr") == attacker.mac.hex(":")}
    assert not believed & {str(client), str(server), str(hop)}


@FAMILIES
def test_datagrams_to_a_port_that_is_policed_by_request(ground: Field, family: int) -> None:
    """QUIC: HTTP/3 would go past every HTTP rule."""
    client, server = ground.ends(family)
    port, mark = ground.port(), os.urandom(8)
    initial = b"\xc0\0\0\0\x01\x08" + mark + bytes(1200)
    packets = [ip(client, server, UDP, wire.udp(client, server, port, L7, initial))]
    assert ground.arrives(ground.frontend, packets, [mark]) == []


OWN_PORTS = (15001, 15002, 15053)  # Envoy for HTTP and TLS, the DNS proxy


@FAMILIES
def test_the_nodes_own_listeners(ground: Field, family: int) -> None:
    """Envoy and the DNS proxy listen on loopback only, and loopback's addresses are out of every pod's reach. The xDS
    server, the admin interface and the agent's API are Unix sockets, and files of the node's."""
    own = ground.intruder.ips[family]
    attacker = ground.wire(ground.intruder)
    hop: IPAddress = ip_address(("169.254.1.1", "fe80::1")[family])
    node: tuple[IPAddress, ...] = ((NODE_IPV4, NODE_IPV6)[family], hop)
    loopback = {0: ("0.0.0.0", "127.0.0.2", "127.0.0.1"), 1: ("::", "::ffff:127.0.0.1", "::1")}[family]
    accepted = ground.node.stat("^listener.lockgate_(http|tls).downstream_cx_total$")
    attacker.received()
    before = ground.counted("address")
    for there in (*node, *map(ip_address, loopback)):
        for port in OWN_PORTS:
            attacker.send(ip(own, there, TCP, wire.tcp(own, there, ground.port(), port)))
            attacker.send(ip(own, there, UDP, wire.udp(own, there, ground.port(), port, b"\0\1\1\0\0\1" + bytes(12))))
    ground.node.until("the last ones are dropped", lambda: ground.counted("address") >= before + 2 * len(OWN_PORTS))
    for there in node:
        for port in OWN_PORTS:
            assert not reaches(ground.intruder, there, port)
    assert not [frame for frame in attacker.received() if wire.is_syn_ack(frame)]
    assert ground.node.stat("^listener.lockgate_(http|tls).downstream_cx_total$") == accepted


def reaches(where: Namespace, there: IPAddress, port: int) -> bool:
    """True when a TCP connection comes about."""
    scope = netns.run_in(where.path, lambda: socket.if_nametoindex("eth0")) if there.is_link_local else 0

    def connect() -> bool:
        with socket.socket(socket.AF_INET6 if there.version == 6 else socket.AF_INET) as made:
            made.settimeout(GLANCE)
            return made.connect_ex((str(there), port, 0, scope) if there.version == 6 else (str(there), port)) == 0

    return netns.run_in(where.path, connect)


def test_nothing_of_the_nodes_listens_beyond_loopback(ground: Field) -> None:
    listed = ground.node.node.run(["ss", "-Hltun"], check=True).stdout.splitlines()
    addresses = [line.split()[4].rpartition(":")[0] for line in listed]
    assert addresses
    assert {each.partition("%")[0] for each in addresses} <= {"127.0.0.1", "[::1]"}
    for name in ("xds-5.sock", "admin.sock", "agent.sock"):
        assert (ground.node.run_dir / name).stat().st_mode & 0o777 == 0o600


def test_more_connections_than_the_kernel_remembers(ground: Field) -> None:
    """What is forgotten is judged again: nobody gets through who did not before, and live connections live on."""
    client, server = ground.ends(0)
    allowed = b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n"
    with ground.connect(0) as policed, ground.connect(1) as other, ground.connect(0, L4) as direct:
        for each in (policed, other, direct):
            each.sendall(allowed)
            assert each.recv(1000).startswith(b"HTTP/1.1 200")
        sender = ground.wire(ground.frontend)
        before = ground.counted("allowed")
        # The map has room for 131072; no policy selects these two, so every datagram is a connection of its own.
        for target in (ground.node.backend.ipv4, ground.intruder.ipv4):
            head = ip(client, target, UDP, bytes(8))[:20]
            for sport in range(1, 65536):
                sender.send(head + struct.pack("!HHHH", sport, 7, 8, 0))
        assert ground.counted("allowed") - before >= 2 * 65000
        for each in (policed, other):
            each.sendall(REQUEST)
            assert each.recv(1000).startswith(b"HTTP/1.1 403")
            each.sendall(allowed)
            assert each.recv(1000).startswith(b"HTTP/1.1 200")
        direct.sendall(allowed)
        assert direct.recv(1000).startswith(b"HTTP/1.1 200")
    assert ground.say(0, REQUEST).startswith(b"HTTP/1.1 403")
    assert fetch(ground.intruder, server, L4, patience=GLANCE) == DROPPED
    assert REQUEST not in ground.record.everything()


def test_the_first_packet_before_the_first_sync(ground: Field) -> None:
    """A new pod whose policy Envoy has not acknowledged yet is mute: nothing reaches it, and it reaches nobody."""
    node = ground.node
    # Of a kind that Envoy has never heard of: another api-server would need nothing of Envoy.
    node.write("late", POLICY.replace("name: field", "name: late").replace("app: api-server", "app: late"))
    node.until("it is in force", lambda: node.ok() and node.status()["policies"]["enforced"] == 2)
    os.kill(node.envoy_pid(), signal.SIGSTOP)
    try:
        late = node.ground.pod("late", labels={"app": "late"})
        served = Recorder(late, L7)
        # The node must know its neighbour already: also what a mute pod says of its own address is dropped.
        assert fetch(node.node, late.ipv4, L7 + 1, patience=GLANCE) == REFUSED
        node.list_pods()
        with Wire(late, node.node) as capture:
            before = ground.counted("unsynced")

            def tried() -> bool:
                for pod in (ground.frontend, ground.intruder):
                    own = pod.ipv4
                    ground.wire(pod).send(ip(own, late.ipv4, TCP, wire.tcp(own, late.ipv4, ground.port(), L7)))
                return ground.counted("unsynced") > before + 4

            node.until("the pod is mute", tried)
            capture.received()
            assert fetch(ground.frontend, late.ipv4, L7, "/allowed", patience=GLANCE) == DROPPED
            assert fetch(ground.intruder, late.ipv6, L7, "/allowed", patience=GLANCE) == DROPPED
            assert fetch(late, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
            # What was sent while the node did not know it yet is over, and both ends are told so.
            came = [frame for frame in capture.received() if not wire.is_reset(frame)]
            assert not [frame for frame in came if pair(0, L7)[2:] in frame[34:60]]
            assert served.taken == []
    finally:
        os.kill(node.envoy_pid(), signal.SIGCONT)
    try:
        node.becomes(OK + " ok", lambda: fetch(ground.frontend, late.ipv4, L7, "/allowed", patience=GLANCE))
        assert fetch(ground.frontend, late.ipv6, L7, "/forbidden") == DENIED
        assert fetch(ground.intruder, late.ipv4, L7, "/allowed", patience=GLANCE) == DROPPED
    finally:
        served.close()
        node.ground.remove(late)
        node.list_pods()
        (node.policies / "late.yaml").unlink()
        node.until("all is as it was", lambda: node.ok() and node.status()["policies"]["enforced"] == 1)
