"""What goes straight from pod to pod with host routing, what goes through the node's stack, and how it arrives."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from lockgate.agent.playground import Namespace, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.redirect.reason import Reason
from lockgate.tests.e2e.datapath_node import GLANCE, L4, OPEN, PATIENCE, SHUT, Node, ask, connect, ingress, wait_for
from lockgate.tests.e2e.wire import ACK, ICMP, ICMPV6, RST, TCP, UDP, Wire, checksum, ip, tcp, udp

PORT = 7100  # where the server's socket of a `Datagrams` is
_ALL = 3  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_SO_RCVMARK = 75
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_UDP_SEGMENT = 103
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


class Capture:
    """What leaves by an interface, or comes in."""

    def __init__(self, where: Namespace, interface: str, *, outgoing: bool = False) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind((interface, _ALL))
            made.setblocking(False)
            return made

        self._socket = netns.run_in(where.path, listen)
        self._outgoing = outgoing

    def passed(self, *ports: int) -> list[bytes]:
        """Frames from or to one of the ports, since the last call."""
        found: list[bytes] = []
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if (address[2] == _OUTGOING) == self._outgoing and {*_ports(frame)} & {*ports}:
                found.append(frame)

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def through_stack(node: Node, pod: Pod) -> Capture:
    """What the node's stack gives a pod."""
    return Capture(node.ground.node, pod.interface, outgoing=True)


def _ports(frame: bytes) -> tuple[int, ...]:
    """Of TCP and UDP, and of what an ICMP error is about."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind not in (0x0800, 0x86DD):
        return ()
    length = 20 if kind == 0x0800 else 40
    at = 14 + (4 * (frame[14] & 15) if kind == 0x0800 else length)
    protocol = frame[23 if kind == 0x0800 else 20]
    if protocol in (ICMP, ICMPV6):
        at += 8 + length
    elif protocol not in (TCP, UDP):
        return ()
    return struct.unpack_from("!HH", frame, at) if len(frame) >= at + 4 else ()


def _hops(frame: bytes) -> int:
    return frame[22] if frame[12:14] == b"\x08\x00" else frame[21]


class Datagrams:
    """Two sockets that have spoken both ways, so that all that follows may go straight."""

    def __init__(self, client: Pod, server: Pod, family: int, options: tuple[tuple[int, int, int], ...] = ()) -> None:
        self.ends = client.ips[family], server.ips[family]
        self.client = netns.run_in(client.path, lambda: self._open(self.ends[0], 0, options))
        self.server = netns.run_in(server.path, lambda: self._open(self.ends[1], PORT, ((1, _SO_RCVMARK, 1),)))
        self.client.connect((str(self.ends[1]), PORT))
        self.port: int = self.client.getsockname()[1]
        self.server.connect((str(self.ends[0]), self.port))
        for _ in range(2):
            assert self.there() == self.back() == b"warm"

    @staticmethod
    def _open(own: IPAddress, port: int, options: tuple[tuple[int, int, int], ...]) -> socket.socket:
        made = socket.socket(socket.AF_INET if own.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        for option in options:
            made.setsockopt(*option)
        made.bind((str(own), port))
        return made

    def there(self, data: bytes = b"warm") -> bytes:
        self.client.send(data)
        return self.server.recv(1 << 16)

    def back(self, data: bytes = b"warm") -> bytes:
        self.server.send(data)
        return self.client.recv(1 << 16)

    def arrives(self, patience: float = GLANCE) -> bool:
        """Whether anything does."""
        return bool(select.select([self.server], [], [], patience)[0])

    def __enter__(self) -> Datagrams:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture(scope="module")
def module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("straight"), host_routing=True)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(module_node: Node) -> Node:
    """Everybody may do anything."""
    module_node.enforce()
    module_node.web.log.clear()
    return module_node


@pytest.fixture
def late(node: Node) -> Iterator[Pod]:
    """A pod that may come to harm."""
    made = node.ground.pod("late")
    node.pods.append(made)
    node.inside(lambda: node.datapath.attach(node.endpoint(made)))
    node.enforce()
    try:
        yield made
    finally:
        if made in node.pods:
            node.pods.remove(made)
        node.ground.remove(made)


def run(where: Namespace, *command: str) -> str:
    ended = where.run(command)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@FAMILIES
def test_all_but_a_connections_first_and_last_packets_go_straight(node: Node, family: int) -> None:
    with through_stack(node, node.server) as to_server, through_stack(node, node.client) as to_client:
        with connect(node.client, node.server.ips[family], L4) as live:
            port = live.getsockname()[1]
            wait_for(lambda: node.web.log == [f"connection from {'::ffff:' * (not family)}{node.client.ips[family]}"])
            assert len(to_server.passed(port)) == 2, "SYN and the handshake's last ACK"
            assert len(to_client.passed(port)) == 1, "SYN and ACK"
            for _ in range(20):
                ask(live)
            assert ask(live, body := os.urandom(1_000_000)) == body
            assert to_server.passed(port) == to_client.passed(port) == []
            live.shutdown(socket.SHUT_WR)
            assert live.recv(1) == b"", "the server has seen the end, and ends too"
        assert to_server.passed(port) != [] != to_client.passed(port)


@FAMILIES
def test_what_is_half_closed_goes_on(node: Node, family: int) -> None:
    body = os.urandom(3_000_000)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            assert connection.recv(1) == b"", "the client's end"
            connection.sendall(body)

    kind = socket.AF_INET if family == 0 else socket.AF_INET6
    with netns.run_in(node.server.path, lambda: socket.create_server(("", PORT), family=kind)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        with connect(node.client, node.server.ips[family], PORT) as half, half.makefile("rb") as received:
            half.sendall(b"x")
            half.shutdown(socket.SHUT_WR)
            assert received.read() == body
        serving.join()


@FAMILIES
def test_a_packet_arrives_as_from_a_router(node: Node, family: int) -> None:
    with (
        Wire(node.server, node.ground.node) as server,
        through_stack(node, node.server) as stack,
        Datagrams(node.client, node.server, family) as flow,
    ):
        (as_routed,) = stack.passed(flow.port)
        arrived = [frame for frame in server.received() if flow.port in _ports(frame)]
        assert arrived[0] == as_routed
        for size in (0, 1, 500, 1400):
            flow.client.send(body := os.urandom(size))
            data, told, _, _ = flow.server.recvmsg(1 << 16, 100)
            assert data == body
            assert told == [(socket.SOL_SOCKET, socket.SO_MARK, bytes(4))], "a mark is the node's own affair"
        assert stack.passed(flow.port) == []
        straight = [frame for frame in server.received() if flow.port in _ports(frame)]
        assert len(straight) == 4
        for frame in straight:
            assert frame[:14] == as_routed[:14]
            assert frame[:12] == server.mac + server.gateway
            assert _hops(frame) == _hops(as_routed) == 63
            assert family == 1 or checksum(frame[14:34]) == 0


@FAMILIES
def test_what_has_no_hop_left_is_answered_by_the_node(node: Node, family: int) -> None:
    with Wire(node.client, node.ground.node) as client, Datagrams(node.client, node.server, family) as flow:
        for hops, arrives in ((2, True), (1, False), (0, False)):
            client.received()
            client.send(ip(*flow.ends, UDP, udp(*flow.ends, flow.port, PORT, b"far"), hops=hops))
            assert flow.arrives() == arrives
            if arrives:
                flow.server.recv(10)
            if hops == 1:
                exceeded = bytes([ICMP, 11]) if family == 0 else bytes([ICMPV6, 3])
                answers = [
                    frame[23:24] + frame[34:35] if family == 0 else frame[20:21] + frame[54:55]
                    for frame in client.received()
                ]
                assert answers.count(exceeded) == 1


def test_options_are_for_the_stack_to_read(node: Node) -> None:
    with (
        Wire(node.client, node.ground.node) as client,
        through_stack(node, node.server) as stack,
        Datagrams(node.client, node.server, 0) as flow,
    ):
        stack.passed()
        client.send(ip(*flow.ends, UDP, udp(*flow.ends, flow.port, PORT, b"optional"), options=b"\x01" * 8))
        assert flow.server.recv(100) == b"optional"
        assert len(stack.passed(flow.port)) == 1
        flow.there()
        assert stack.passed(flow.port) == []


@FAMILIES
def test_what_is_for_another_hardware_address_is_nobodys(node: Node, family: int) -> None:
    with Wire(node.client, node.ground.node) as client, Datagrams(node.client, node.server, family) as flow:
        packet = ip(*flow.ends, UDP, udp(*flow.ends, flow.port, PORT, b"astray"))
        kind = b"\x08\x00" if family == 0 else b"\x86\xdd"
        for to in (b"\x02\x00\x00\x00\x00\x07", b"\xff" * 6, b"\x01\x00\x5e\x00\x00\x01"):
            client.send_frame(to + client.mac + kind + packet)
        assert not flow.arrives()
        client.send(packet)
        assert flow.server.recv(100) == b"astray"


def test_fragments_and_tags_of_a_known_connection_are_dropped(node: Node) -> None:
    with Wire(node.client, node.ground.node) as client, Datagrams(node.client, node.server, 0) as flow:
        before = node.dropped(Reason.FRAGMENT), node.dropped(Reason.UNSUPPORTED)
        whole = udp(*flow.ends, flow.port, PORT, b"in pieces")
        client.send(ip(*flow.ends, UDP, whole, fragment=0x2000))
        client.send_frame(client.gateway + client.mac + b"\x81\x00\x00\x07\x08\x00" + ip(*flow.ends, UDP, whole))
        wait_for(lambda: node.dropped(Reason.FRAGMENT) > before[0] and node.dropped(Reason.UNSUPPORTED) > before[1])
        assert not flow.arrives()


def counted(node: Node) -> list[int]:
    return [each.packets for each in node.datapath.counters() if each.reason is Reason.ALLOWED]


@FAMILIES
def test_both_ends_are_counted(node: Node, family: int) -> None:
    with through_stack(node, node.server) as stack, Datagrams(node.client, node.server, family) as flow:
        stack.passed()
        before = counted(node)
        for _ in range(50):
            flow.there()
        assert [now - then for now, then in zip(counted(node), before, strict=True)] == pytest.approx([50, 50], abs=9)
        assert stack.passed(flow.port) == []


@FAMILIES
def test_errors_come_back_by_the_stack(node: Node, family: int) -> None:
    with through_stack(node, node.client) as stack, Datagrams(node.client, node.server, family) as flow:
        flow.server.close()
        stack.passed()
        flow.client.send(b"is anybody there")
        with pytest.raises(ConnectionRefusedError):
            flow.client.recv(1)
        assert len(stack.passed(flow.port)) == 1


@FAMILIES
def test_what_is_judged_anew_goes_on_as_it_went(node: Node, family: int) -> None:
    with (
        through_stack(node, node.server) as there,
        through_stack(node, node.client) as back,
        connect(node.client, node.server.ips[family], L4) as live,
    ):
        ask(live)
        port = live.getsockname()[1]
        there.passed(), back.passed()
        for policy in (ingress(), OPEN):
            node.enforce(stranger=policy)
            ask(live)
        assert there.passed(port) == back.passed(port) == []


def test_a_reset_ends_it_at_the_node_too(node: Node) -> None:
    ends = node.client.ipv4, node.server.ipv4
    with (
        Wire(node.client, node.ground.node) as client,
        through_stack(node, node.server) as stack,
        connect(node.client, ends[1], L4) as live,
    ):
        ask(live)
        port = live.getsockname()[1]
        stack.passed()
        ask(live)
        assert stack.passed(port) == []
        for flags in (RST, ACK):
            client.send(ip(*ends, TCP, tcp(*ends, port, L4, flags)))
        found: list[bytes] = []

        def both() -> bool:
            found.extend(stack.passed(port))
            return len(found) == 2

        wait_for(both)


@FAMILIES
def test_a_smaller_mtu_at_the_receiver(node: Node, late: Pod, family: int) -> None:
    v4, v6 = (socket.IPPROTO_IP, _IP_MTU_DISCOVER), (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
    discover = (*(v4, v6)[family], _PMTUDISC_PROBE)
    most = 1300 - (28, 48)[family]
    run(node.ground.node, "ip", "link", "set", late.interface, "mtu", "1300")
    with Datagrams(node.client, late, family, (discover,)) as flow, through_stack(node, late) as stack:
        assert len(flow.there(bytes(most))) == most
        assert stack.passed(flow.port) == []
        for length, segment in ((most + 1, 0), (2 * most + 2, most + 1)):
            flow.client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)
            flow.client.send(bytes(length))
            with pytest.raises(OSError, match="Message too long"):
                flow.client.recv(1)
        assert not flow.arrives()
        flow.client.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, most)
        flow.client.send(bytes(3 * most))
        assert [len(flow.server.recv(1 << 16)) for _ in range(3)] == [most] * 3
        assert stack.passed(flow.port) == []

    def listen() -> socket.socket:
        return socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    body = os.urandom(2_000_000)
    with netns.run_in(late.path, listen) as listener, connect(node.client, late.ips[family], PORT) as sender:
        receiver, _ = listener.accept()
        sending = threading.Thread(target=sender.sendall, args=(body,))
        sending.start()
        with receiver, receiver.makefile("rb") as received:
            assert received.read(len(body)) == body
        sending.join()


TRANSLATION = """
table ip nat {
  chain pre { type nat hook prerouting priority dstnat; %s; }
  chain post { type nat hook postrouting priority srcnat; %s; }
}
"""
ELSEWHERE = "10.200.77.77"  # nobody's address


@pytest.mark.parametrize(
    ("pre", "post", "asked"),
    [
        (f"tcp dport 81 dnat to :{L4}", "", (None, 81)),
        ("", f"tcp dport {L4} masquerade", (None, L4)),
        (f"ip daddr {ELSEWHERE} dnat to SERVER", "", (ELSEWHERE, L4)),
    ],
    ids=["another port", "another source", "another address"],
)
def test_what_the_node_translates_goes_through_its_stack(
    node: Node, pre: str, post: str, asked: tuple[str | None, int]
) -> None:
    nft(node, TRANSLATION % (pre.replace("SERVER", str(node.server.ipv4)), post))
    try:
        with (
            through_stack(node, node.server) as there,
            through_stack(node, node.client) as back,
            connect(node.client, asked[0] or node.server.ipv4, asked[1]) as live,
        ):
            for _ in range(5):
                ask(live)
            there.passed(), back.passed()
            body = os.urandom(100_000)
            assert ask(live, body) == body
            assert len(there.passed(L4)) > 1
            assert len(back.passed(asked[1])) > 1
    finally:
        nft(node, "flush ruleset")


def test_a_connection_that_comes_out_as_another(node: Node) -> None:
    """Of two with the same client's port, each arrives as the other was sent."""
    nft(node, TRANSLATION % (f"tcp dport {L4} dnat to :{SHUT}; tcp dport {SHUT} dnat to :{L4}", ""))

    def both() -> list[socket.socket]:
        made = [socket.socket(), socket.socket()]
        for each, port in zip(made, (L4, SHUT), strict=True):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.settimeout(PATIENCE)
            each.bind((str(node.client.ipv4), PORT))
            each.connect((str(node.server.ipv4), port))
        return made

    try:
        one, other = netns.run_in(node.client.path, both)
        with one, other, through_stack(node, node.server) as stack:
            for _ in range(5):
                for live in (one, other):
                    stack.passed()
                    ask(live, os.urandom(1000))
                    assert stack.passed(PORT) != []
    finally:
        nft(node, "flush ruleset")


def nft(node: Node, rules: str) -> None:
    ended = node.ground.node.run(["nft", "-f", "-"], input=rules)
    assert ended.returncode == 0, ended.stderr


FIREWALL = """
table inet firewall {
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid counter drop
    ct state established counter accept
    tcp dport %d accept
  }
}
"""


@FAMILIES
def test_a_firewall_that_follows_connections_sees_their_ends(node: Node, family: int) -> None:
    nft(node, FIREWALL % L4)
    try:
        body = os.urandom(3_000_000)
        with connect(node.client, node.server.ips[family], L4) as live:
            assert ask(live, body) == body
            node.enforce(stranger=ingress())
            assert ask(live, body) == body
            live.shutdown(socket.SHUT_WR)
            assert live.recv(1) == b""
        state = run(node.ground.node, "nft", "-j", "list", "chain", "inet", "firewall", "forward")
        counters = [
            part["counter"]["packets"]
            for each in json.loads(state)["nftables"]
            if "rule" in each
            for part in each["rule"]["expr"]
            if "counter" in part
        ]
        assert counters[0] == 0, "nothing is invalid"
        assert 0 < counters[1] < 60, "and few packets are seen"
    finally:
        nft(node, "flush ruleset")


class TestWhereAPodWas:
    """Its interface goes, while nobody tells the kernel that the policies are about."""

    @pytest.fixture(params=[0, 1], ids=["ipv4", "ipv6"])
    def flow(self, request: pytest.FixtureRequest, node: Node, late: Pod) -> Iterator[Datagrams]:
        with Datagrams(node.client, late, request.param) as flow:
            yield flow

    def is_lost(self, flow: Datagrams, elsewhere: Capture | None = None) -> None:
        """What the client sends comes nowhere."""
        for _ in range(3):
            with suppress(OSError):  # no route, says the node
                flow.client.send(b"lost")
        assert not flow.arrives()
        assert elsewhere is None or elsewhere.passed(PORT) == []

    def test_it_is_gone_and_its_number_is_anothers(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "del", late.interface)
        self.is_lost(flow)
        with anothers(node, node.stranger, late.ifindex) as thief:
            self.is_lost(flow, thief)

    def test_it_is_moved_and_its_number_is_anothers(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "set", late.interface, "netns", node.stranger.netns)
        try:
            run(node.stranger, "ip", "link", "set", late.interface, "up")
            self.is_lost(flow)
            with anothers(node, node.server, late.ifindex) as thief:
                self.is_lost(flow, thief)
        finally:
            run(node.stranger, "ip", "link", "del", late.interface)

    def test_it_is_down(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(node.ground.node, "ip", "link", "set", late.interface, "down")
        self.is_lost(flow)

    def test_its_end_in_the_pod_is_down(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(late, "ip", "link", "set", "eth0", "down")
        self.is_lost(flow)

    def test_its_end_in_the_pod_has_come_to_the_node(self, node: Node, late: Pod, flow: Datagrams) -> None:
        run(late, "ip", "link", "set", "eth0", "netns", node.ground.node.netns)
        run(node.ground.node, "ip", "link", "set", "eth0", "up")
        try:
            self.is_lost(flow)
        finally:
            run(node.ground.node, "ip", "link", "del", "eth0")

    def test_its_address_is_led_elsewhere(self, node: Node, late: Pod, flow: Datagrams) -> None:
        """As routing has it, at once."""
        run(node.ground.node, "ip", "route", "replace", f"{flow.ends[1]}", "dev", node.server.interface)
        neighbour = ["lladdr", "02:00:00:00:00:07", "dev", node.server.interface]
        run(node.ground.node, "ip", "neigh", "replace", f"{flow.ends[1]}", *neighbour)
        with Capture(node.server, "eth0") as server:
            self.is_lost(flow, server)
        run(node.ground.node, "ip", "neigh", "del", f"{flow.ends[1]}", "dev", node.server.interface)
        run(node.ground.node, "ip", "route", "replace", f"{flow.ends[1]}", "dev", late.interface)
        assert flow.there(b"again") == b"again"

    def test_it_is_made_again(self, node: Node, late: Pod, flow: Datagrams) -> None:
        """With another number: the connection finds its way anew."""
        family = int(flow.ends[1].version == 6)
        hop, scope = (("169.254.1.1/32", "scope link"), ("fe80::1/64", "nodad"))[family]
        mac = "02:00:00:00:00:42"
        run(node.ground.node, "ip", "link", "del", late.interface)
        for where, command in (
            (node.ground.node, f"link add {late.interface} type veth peer name eth0 address {mac} netns {late.netns}"),
            (node.ground.node, f"addr add {hop} dev {late.interface} {scope}"),
            (node.ground.node, f"link set {late.interface} up"),
            (late, "link set eth0 up"),
            (late, f"addr add {flow.ends[1]} dev eth0 {('', 'nodad')[family]}"),
            *([(late, "route add 169.254.1.1 dev eth0 scope link")] if family == 0 else []),
            (late, f"-{(4, 6)[family]} route add default via {hop.partition('/')[0]} dev eth0"),
            (node.ground.node, f"route replace {flow.ends[1]} dev {late.interface}"),
            (node.ground.node, f"neigh replace {flow.ends[1]} lladdr {mac} dev {late.interface}"),
        ):
            run(where, "ip", *command.split())
        node.inside(lambda: node.datapath.attach(node.endpoint(late)))
        node.enforce()
        with through_stack(node, late) as stack:
            for _ in range(2):
                assert flow.there(b"again") == flow.back(b"again") == b"again"
            assert len(stack.passed(PORT)) == 1
            for _ in range(3):
                assert flow.there(b"again") == flow.back(b"again") == b"again"
            assert stack.passed(PORT) == []

    def test_it_is_not_enforced_any_more(self, node: Node, late: Pod, flow: Datagrams) -> None:
        with through_stack(node, late) as stack:
            node.inside(lambda: node.datapath.detach(late.ifindex))
            assert flow.there(b"free") == b"free"
            assert late.ifindex not in (node.datapath.far_ends() or ())
            node.pods.remove(late)
            node.enforce()
            stack.passed()
            for _ in range(3):
                assert flow.there(b"free") == b"free"
            assert len(stack.passed(PORT)) == 3, "nobody's policy, and the stack's business"


@contextmanager
def anothers(node: Node, pod: Pod, ifindex: int) -> Iterator[Capture]:
    """An interface of the node with this number, which leads to another pod: what comes in there."""
    peer = ["peer", "name", "other0", "netns", pod.netns]
    run(node.ground.node, "ip", "link", "add", "other", "index", str(ifindex), "type", "veth", *peer)
    run(node.ground.node, "ip", "link", "set", "other", "up")
    run(pod, "ip", "link", "set", "other0", "up")
    with Capture(pod, "other0") as capture:
        yield capture
    run(node.ground.node, "ip", "link", "del", "other")


def test_a_pod_with_another_hardware_address(node: Node, late: Pod) -> None:
    with Datagrams(node.client, late, 0) as flow:
        run(late, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:42")
        run(node.ground.node, "ip", "neigh", "flush", "dev", late.interface)
        with Wire(late, node.ground.node) as wire, through_stack(node, late) as stack:
            for _ in range(3):
                flow.there()
            frames = [frame for frame in wire.received() if PORT in _ports(frame)]
            assert {frame[:6] for frame in frames} == {b"\x02\x00\x00\x00\x00\x42"}
            assert len(stack.passed(PORT)) < len(frames) == 3


@FAMILIES
def test_an_end_in_the_nodes_own_namespace_is_left_to_the_stack(node: Node, late: Pod, family: int) -> None:
    """As where the node's own bridge is behind an endpoint's interface: nothing can be put in there."""
    space = node.ground.node
    own, hop, bits = late.ips[family], ("169.254.1.1", "fe80::1")[family], (32, 128)[family]
    for command in (
        "link add br7 type bridge",
        "link add leg type veth peer name plug",
        f"link add port type veth peer name eth1 netns {late.netns}",
        "link set plug master br7",
        "link set port master br7",
        *(f"link set {name} up" for name in ("br7", "leg", "plug", "port")),
        f"addr add {hop}/{(32, 64)[family]} dev leg {('scope link', 'nodad')[family]}",
        f"route replace {own} dev leg",
    ):
        run(space, "ip", *command.split())
    try:
        for command in (
            f"addr del {own}/{bits} dev eth0",
            "link set eth1 up",
            f"addr add {own}/{bits} dev eth1 {('', 'nodad')[family]}",
            *([f"route add {hop} dev eth1 scope link"] if family == 0 else []),
            f"-{(4, 6)[family]} route replace default via {hop} dev eth1",
        ):
            run(late, "ip", *command.split())
        node.placed[late.name] = "leg"
        node.inside(lambda: node.datapath.attach(node.endpoint(late)))
        node.enforce()
        with Datagrams(node.client, late, family) as flow:
            for _ in range(5):
                assert flow.there() == flow.back() == b"warm"
    finally:
        node.placed.clear()
        for name in ("leg", "port", "br7"):
            run(space, "ip", "link", "del", name)


def test_on_and_off_while_connections_live(node: Node) -> None:
    with through_stack(node, node.server) as stack, connect(node.client, node.server.ipv4, L4) as live:
        port = live.getsockname()[1]
        try:
            for straight in (True, False, True, False):
                node.host_routing = straight
                node.reopen()
                node.enforce()
                ask(live)  # judged anew, maybe
                ask(live)
                stack.passed()
                body = os.urandom(300_000)
                assert ask(live, body) == body
                assert (stack.passed(port) == []) == straight
        finally:
            node.host_routing = True
            node.reopen()


def test_the_agent_is_gone(node: Node) -> None:
    """What it has set up goes on, for connections that are and those to come."""
    with connect(node.client, node.server.ipv4, L4) as live, through_stack(node, node.server) as stack:
        ask(live)
        node.datapath.close()
        try:
            stack.passed()
            ask(live)
            assert stack.passed(live.getsockname()[1]) == []
            with connect(node.client, node.server.ipv6, L4) as later:
                ask(later)
                stack.passed()
                ask(later)
                assert stack.passed(later.getsockname()[1]) == []
        finally:
            node.datapath = node.opened()
