"""How the programs lead to a proxy, and past none (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address

import pytest
from lockgate.policies.endpoint_policy import (
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    ACK,
    CLIENT,
    DNS,
    ENVOY_MARK,
    HOST,
    HOST_LINK,
    OK,
    ORIGIN,
    PROXY_MARK,
    RST,
    SERVER,
    SHOT,
    SYN,
    TURNED_BACK,
    TURNED_MARK,
    UNSPEC,
    WORLD,
    Kernel,
    Outcome,
    both,
    egress,
    ether,
    frame,
    fresh,
    icmp,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)


def upstream(kernel: Kernel, version: int, server: IPAddress, port: int) -> tuple[socket.socket, int]:
    """A proxy's socket with the client's address that asks `server`, and its port."""

    def connect() -> socket.socket:
        made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        level, option = (socket.IPPROTO_IP, 19) if version == 4 else (socket.IPPROTO_IPV6, 75)
        made.setsockopt(level, option, 1)  # IP_TRANSPARENT, IPV6_TRANSPARENT
        made.bind((str(both(kernel, version)[0]), 0))
        made.connect((str(server), port))
        return made

    made = kernel.inside(connect)
    return made, made.getsockname()[1]


@pytest.mark.parametrize("version", [4, 6])
def test_dns_never_goes_round_its_proxy(kernel: Kernel, version: int) -> None:
    """bpf_sk_assign() does nothing here, so what goes to a socket of the proxy counts as NO_PROXY."""
    kernel.enforce(client=egress(rule(SERVER, 53, dns=True, protocol=Protocol.UDP)))
    source, destination = both(kernel, version)
    port = next(fresh)
    assert kernel.send(frame(ip(source, destination, 17, udp(port, 53)))).reason is Reason.NO_PROXY
    assert kernel.send(frame(ip(source, destination, 17, udp(port, 54)))).reason is Reason.POLICY
    answer = frame(ip(destination, source, 17, udp(53, port)))
    assert kernel.run(Hook.TO_POD, kernel.client.ifindex, answer).reason is Reason.ALLOWED  # the proxy's own
    assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, answer).reason is Reason.NO_PROXY  # the server's

    sock, own = upstream(kernel, version, destination, 53)
    with closing(sock):
        asked = frame(ip(source, destination, 17, udp(own, 53)))
        assert kernel.run(Hook.TO_POD, kernel.server.ifindex, asked).reason is Reason.UNPROXIED
        assert kernel.run(Hook.TO_POD, kernel.server.ifindex, asked, ENVOY_MARK).reason is Reason.ALLOWED
        number, kind = (1, 3) if version == 4 else (58, 1)
        error = frame(ip(destination, source, number, icmp(kind, 0, asked[14:62])))
        assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, error) == Outcome(OK, PROXY_MARK, Reason.REDIRECTED)


@pytest.mark.parametrize("version", [4, 6])
def test_answers_from_outside_are_turned_back_to_the_proxy(kernel: Kernel, version: int) -> None:
    kernel.enforce(client=ingress())
    source, _ = both(kernel, version)
    outside = kernel.outside.ipv4 if version == 4 else kernel.outside.ipv6
    sock, own = upstream(kernel, version, outside, 53)

    def arrive(sport: int, dport: int, came_from: int) -> Outcome:
        packet = frame(ip(outside, source, 17, udp(sport, dport)))
        return kernel.run(Hook.TO_POD, kernel.client.ifindex, packet, 0, came_from)

    with closing(sock):
        for came_from in (0, kernel.server.ifindex):  # the node's own, or forwarded
            assert arrive(53, own, came_from) == Outcome(TURNED_BACK, TURNED_MARK, Reason.REDIRECTED)
            assert arrive(54, own, came_from).reason is Reason.POLICY
            assert arrive(53, own + 1, came_from).reason is Reason.POLICY
    assert arrive(53, own, 0).reason is Reason.POLICY


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_what_a_proxy_answers_keeps_a_forgotten_connection_with_it(
    kernel: Kernel, version: int, protocol: Protocol
) -> None:
    """The client lets nobody in: what is no answer to it does not pass."""
    is_tcp = protocol is Protocol.TCP
    allowed = rule(SERVER, 53, http=is_tcp, dns=not is_tcp, protocol=protocol)
    kernel.enforce(client=replace(egress(allowed), ingress=ingress().ingress))
    source, destination = both(kernel, version)

    def arrive(sport: int, dport: int, flags: int = ACK, came_from: int = 0) -> Outcome:
        payload = tcp(sport, dport, flags) if is_tcp else udp(sport, dport)
        packet = frame(ip(destination, source, 6 if is_tcp else 17, payload))
        return kernel.run(Hook.TO_POD, kernel.client.ifindex, packet, 0, came_from)

    def asks(sport: int) -> Outcome:
        payload = tcp(sport, 53, ACK) if is_tcp else udp(sport, 53)
        return kernel.send(frame(ip(source, destination, 6 if is_tcp else 17, payload)))

    port = next(fresh)
    assert arrive(54, port).reason is Reason.POLICY
    assert arrive(53, port, came_from=kernel.server.ifindex).reason is Reason.POLICY
    if is_tcp:
        assert arrive(53, port, SYN).reason is Reason.POLICY
    assert arrive(53, port).reason is Reason.ALLOWED
    assert asks(port).reason is Reason.NO_PROXY  # and not ALLOWED
    assert arrive(53, port).reason is Reason.ALLOWED


@pytest.mark.parametrize("version", [4, 6])
def test_what_a_proxy_answers_as_the_node_keeps_a_forgotten_connection_with_it(kernel: Kernel, version: int) -> None:
    """The node itself may ask the client whatever it likes."""
    kernel.enforce(client=replace(egress(rule(1, 53, dns=True, protocol=Protocol.UDP)), ingress=ingress().ingress))
    client, node = both(kernel, version)[0], HOST if version == 4 else HOST_LINK

    def comes_and_goes(port: int, service: int) -> tuple[Reason | None, Reason | None]:
        there = frame(ip(node, client, 17, udp(service, port)))
        back = frame(ip(client, node, 17, udp(port, service)))
        return kernel.run(Hook.TO_POD, kernel.client.ifindex, there).reason, kernel.send(back).reason

    port = next(fresh)
    for each in (port, port, next(fresh)):
        assert comes_and_goes(each, 53) == (Reason.ALLOWED, Reason.NO_PROXY)
    assert comes_and_goes(port, 54) == (Reason.ALLOWED, Reason.ALLOWED)


@pytest.mark.parametrize("version", [4, 6])
def test_a_server_past_the_proxy_of_its_clients_begins_nothing(kernel: Kernel, version: int) -> None:
    """What nobody knows, from the port that a rule by request covers, is reset: by a listener that is not here."""
    kernel.enforce(server=ingress(rule(CLIENT, 80, http=True), rule(CLIENT, 443)))
    client, server = both(kernel, version)
    port = next(fresh)

    def says(service: int, flags: int) -> Reason | None:
        packet = frame(ip(server, client, 6, tcp(service, port, flags)))
        return kernel.run(Hook.FROM_POD, kernel.server.ifindex, packet).reason

    assert [says(80, flags) for flags in (ACK, SYN | ACK, RST | ACK)] == [
        Reason.NO_PROXY,
        Reason.NO_PROXY,
        Reason.UNPROXIED,
    ]
    assert says(443, ACK) is Reason.ALLOWED
    assert [says(80, flags) for flags in (SYN, ACK)] == [Reason.ALLOWED] * 2, "a connection of its own"


def test_what_no_proxy_takes_is_dropped(kernel: Kernel) -> None:
    spans = tuple(PortSpan(protocol, 53, 53) for protocol in (Protocol.UDP, Protocol.SCTP))
    http = ResolvedRule(ORIGIN, False, None, (*spans, PortSpan(Protocol.UDP, 80, 80)), HttpRules((HttpRule(),)))
    for policy, number, port in ((egress(http), 17, 80), (egress(replace(http, l7=DNS)), 132, 53)):
        kernel.enforce(client=policy)
        packet = ip(kernel.client.ipv4, kernel.server.ipv4, number, udp(next(fresh), port))
        assert kernel.send(frame(packet)).reason is Reason.NOT_TCP


@pytest.mark.parametrize("version", [4, 6])
def test_an_uplink_hands_requests_to_the_proxy(kernel: Kernel, version: int) -> None:
    kernel.enforce(server=ingress(rule(9, 80), rule(10, 80), rule(9, 443, http=True), rule(10, 443, http=True)))
    client, server = both(kernel, version)
    world, host = (WORLD, HOST) if version == 4 else (ip_address("2001:db8::9"), HOST_LINK)

    def enter(
        source: IPAddress, there: IPAddress, port: int, flags: int = SYN, sport: int = 0, mark: int = 0
    ) -> Outcome:
        packet = frame(ip(source, there, 6, tcp(sport or next(fresh), port, flags)))
        return kernel.run(Hook.FROM_UPLINK, 1, packet, mark)

    judged = kernel.server.ifindex << 16 | 0x400
    port = next(fresh)
    assert enter(world, server, 80, sport=port) == Outcome(UNSPEC, judged, None)
    assert enter(world, server, 80, ACK, sport=port) == Outcome(UNSPEC, judged, None)
    assert enter(world, server, 81).reason is Reason.POLICY
    assert enter(world, server, 443).reason is Reason.NO_PROXY  # nobody listens here: not past the proxy
    for claimed in (client, server, host):
        assert enter(claimed, server, 80) == Outcome(SHOT, 0, Reason.SPOOFED)
    # A known connection of two pods does not come in here either.
    port = next(fresh)
    assert kernel.send(frame(ip(client, server, 6, tcp(port, 8080)))).reason is Reason.POLICY
    kernel.enforce()
    assert kernel.send(frame(ip(client, server, 6, tcp(port, 8080)))).reason is Reason.ALLOWED
    assert enter(client, server, 8080, ACK, sport=port).reason is Reason.SPOOFED
    packet = frame(ip(client, server, 6, tcp(port, 8080, ACK)))
    assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, 0, 1).reason is Reason.SPOOFED
    # What is no endpoint's business, or has been judged, is left alone.
    for there in (host, world):
        assert enter(world, there, 80) == Outcome(UNSPEC, 0, None)
    for mark in (judged, PROXY_MARK):
        assert enter(world, server, 81, mark=mark) == Outcome(UNSPEC, mark, None)
    assert kernel.run(Hook.FROM_UPLINK, 1, ether(bytes(40), 0x8100)) == Outcome(UNSPEC, 0, None)


@pytest.mark.parametrize("version", [4, 6])
def test_answers_from_an_uplink_go_to_the_proxy_that_asked(kernel: Kernel, version: int) -> None:
    kernel.enforce(client=ingress())
    source, _ = both(kernel, version)
    outside = kernel.outside.ipv4 if version == 4 else kernel.outside.ipv6
    sock, own = upstream(kernel, version, outside, 53)
    with closing(sock):
        answer = frame(ip(outside, source, 17, udp(53, own)))
        # A test run cannot assign a socket: it was found, and then not to be had.
        assert kernel.run(Hook.FROM_UPLINK, 1, answer).reason is Reason.NO_PROXY
        stray = frame(ip(outside, source, 17, udp(54, own)))
        assert kernel.run(Hook.FROM_UPLINK, 1, stray).reason is Reason.POLICY


def test_replies_to_envoy_never_reach_the_client_round_it(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 80, http=True)))
    client, server = kernel.client, kernel.server
    port = next(fresh)
    upstream = frame(ip(client.ipv4, server.ipv4, 6, tcp(port, 80)))
    reply = frame(ip(server.ipv4, client.ipv4, 6, tcp(80, port, SYN | ACK)))
    assert kernel.run(Hook.TO_POD, server.ifindex, upstream, ENVOY_MARK).reason is Reason.ALLOWED
    # Envoy's socket does not exist here: the reply is dropped, not sent on to the client.
    assert kernel.run(Hook.FROM_POD, server.ifindex, reply).reason is Reason.NO_PROXY
    later = frame(ip(client.ipv4, server.ipv4, 6, tcp(port, 80, ACK)))
    assert kernel.run(Hook.TO_POD, server.ifindex, later, ENVOY_MARK).reason is Reason.ALLOWED
    assert kernel.run(Hook.TO_POD, server.ifindex, later).reason is Reason.UNPROXIED
