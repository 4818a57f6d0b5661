"""What goes straight from pod to pod, what goes through the node's stack, and how it arrives."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from lockgate.agent.playground import Pod
from lockgate.redirect.kernel import netns
from lockgate.redirect.reason import Reason
from lockgate.tests.e2e.datapath_node import L4, OPEN, Node, ask, connect, ingress, wait_for
from lockgate.tests.e2e.host_routing.ground import (
    FAMILIES,
    PORT,
    Datagrams,
    hops_of,
    ports_of,
    run,
    through_stack,
)
from lockgate.tests.e2e.wire import ACK, ICMP, ICMPV6, RST, TCP, UDP, Wire, checksum, ip, tcp, udp

_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE = 10, 23, 3
_UDP_SEGMENT = 103


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
        arrived = [frame for frame in server.received() if flow.port in ports_of(frame)]
        assert arrived[0] == as_routed
        for size in (0, 1, 500, 1400):
            flow.client.send(body := os.urandom(size))
            data, told, _, _ = flow.server.recvmsg(1 << 16, 100)
            assert data == body
            assert told == [(socket.SOL_SOCKET, socket.SO_MARK, bytes(4))], "a mark is the node's own affair"
        assert stack.passed(flow.port) == []
        straight = [frame for frame in server.received() if flow.port in ports_of(frame)]
        assert len(straight) == 4
        for frame in straight:
            assert frame[:14] == as_routed[:14]
            assert frame[:12] == server.mac + server.gateway
            assert hops_of(frame) == hops_of(as_routed) == 63
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
