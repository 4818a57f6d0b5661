"""What the engine has translated on its way to an endpoint, run by the kernel on packets made here."""

from __future__ import annotations

import socket
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address

import pytest
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.workload import IPAddress
from lockgate.redirect.connections import ConnectionMap
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    ACK,
    AS_NAMED,
    CLIENT,
    HOST,
    JUDGED,
    LEFT_MARK,
    OK,
    PROXY_MARK,
    RST,
    SENT_MARK,
    SERVER,
    SHOT,
    SYN,
    TURNED_BACK,
    TURNED_MARK,
    UNSPEC,
    WORLD,
    Kernel,
    Outcome,
    egress,
    frame,
    fresh,
    icmp,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)

POLICED = ingress(rule(9, 443, http=True), rule(10, 443, http=True), rule(9, 80), rule(10, 80))
TURNED = Outcome(TURNED_BACK, TURNED_MARK, Reason.REDIRECTED)
ENDED = Outcome(TURNED_BACK, TURNED_MARK, None)  # at lo it is counted


class Client:
    """Somebody outside, with one port, whose packets come in by an uplink."""

    def __init__(self, kernel: Kernel, version: int, port: int) -> None:
        self.kernel, self.port, self.own = kernel, port, next(fresh)
        self.address: IPAddress = WORLD if version == 4 else ip_address("2001:db8::9")
        self.server: IPAddress = kernel.server.ipv4 if version == 4 else kernel.server.ipv6

    def packet(self, flags: int = SYN) -> bytes:
        return frame(ip(self.address, self.server, 6, tcp(self.own, self.port, flags)))

    def arrives(self, flags: int = SYN, mark: int = 0) -> Outcome:
        """At the endpoint, translated."""
        return self.to_pod(self.packet(flags), mark)

    def to_pod(self, packet: bytes, mark: int = 0, came_from: int = 1) -> Outcome:
        return self.kernel.run(
            Hook.TO_POD, self.kernel.server.ifindex, packet, mark, came_from and self.kernel.client.ifindex
        )

    def at_lo(self, packet: bytes, mark: int = TURNED_MARK) -> Outcome:
        return self.kernel.run(Hook.FROM_LOOPBACK, 1, packet, mark, 1)


@pytest.mark.parametrize("version", [4, 6])
def test_it_is_turned_back_where_a_rule_by_request_covers_it(kernel: Kernel, version: int) -> None:
    kernel.enforce(server=POLICED)
    client = Client(kernel, version, 443)
    assert [client.arrives(flags) for flags in (SYN, ACK, ACK)] == [TURNED] * 3
    assert client.arrives(ACK, TURNED_MARK) == Outcome(SHOT, TURNED_MARK, Reason.UNPROXIED), "nobody was at lo"
    kernel.enforce(server=ingress(rule(9, 80), rule(10, 80)))
    assert client.arrives(ACK).reason is Reason.POLICY, "the proxy's own are ended otherwise"
    assert Client(kernel, version, 80).arrives().reason is Reason.ALLOWED
    assert Client(kernel, version, 443).arrives().reason is Reason.POLICY


def test_what_the_node_sends_is_not_turned_back(kernel: Kernel) -> None:
    kernel.enforce(server=POLICED)
    client = Client(kernel, 4, 443)
    assert client.to_pod(client.packet(), came_from=0).reason is Reason.UNPROXIED
    datagram = frame(ip(WORLD, kernel.server.ipv4, 17, udp(next(fresh), 443)))
    assert client.to_pod(datagram).reason is Reason.POLICY


@pytest.mark.parametrize("version", [4, 6])
def test_a_connection_from_before_the_rule_is_ended_at_lo(kernel: Kernel, version: int) -> None:
    client = Client(kernel, version, 443)
    for tightened in (POLICED, ingress()):
        kernel.enforce()
        assert client.arrives().reason is Reason.ALLOWED
        kernel.enforce(server=tightened)
        assert client.arrives(ACK) == ENDED
        assert client.arrives(RST | ACK) == Outcome(OK, 0, Reason.ALLOWED), "the other end hears of it"


@pytest.mark.parametrize("version", [4, 6])
def test_at_lo(kernel: Kernel, version: int) -> None:
    """No Envoy listens here, and bpf_sk_assign() does nothing."""
    kernel.enforce(server=POLICED)
    client = Client(kernel, version, 443)
    for mark in (0, PROXY_MARK):
        assert client.at_lo(client.packet(), mark) == Outcome(UNSPEC, mark, None), "none of its business"
    assert client.at_lo(client.packet(ACK)) == Outcome(SHOT, TURNED_MARK, Reason.NO_PROXY), "of nothing that is known"
    assert client.arrives() == TURNED
    assert client.at_lo(client.packet()).reason is Reason.NO_PROXY
    assert client.at_lo(client.packet(ACK)[:-12]).reason is Reason.MALFORMED
    number, kind = (1, 3) if version == 4 else (58, 2)
    quoted = frame(ip(client.server, client.address, 6, tcp(443, client.own, ACK)))[14:]
    error = frame(ip(client.address, client.server, number, icmp(kind, 0, quoted)))
    assert client.to_pod(error) == TURNED
    assert client.at_lo(error) == Outcome(OK, PROXY_MARK, None), "the stack knows by what it quotes whom it is for"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("port", [443, 80])
def test_who_has_the_same_ends_and_was_not_translated_is_left_to_the_endpoint(
    kernel: Kernel, version: int, port: int
) -> None:
    """Conntrack gives it another port on the way; what from_uplink remembers there is another connection's."""
    kernel.enforce(server=POLICED)
    client = Client(kernel, version, port)
    turned = port == 443
    left = kernel.client.ifindex << 16 | LEFT_MARK
    passed = Outcome(TURNED_BACK, AS_NAMED, Reason.REDIRECTED) if turned else Outcome(OK, left, Reason.ALLOWED)

    def comes_in(flags: int) -> Outcome:
        return kernel.run(Hook.FROM_UPLINK, kernel.client.ifindex, client.packet(flags), 0, kernel.client.ifindex)

    assert client.arrives().reason is (Reason.REDIRECTED if turned else Reason.ALLOWED)
    for flags in (SYN, ACK, RST | ACK):
        assert comes_in(flags) == Outcome(UNSPEC, left, None)
    assert client.arrives(SYN, left) == passed
    kernel.enforce(server=ingress(rule(9, 22), rule(10, 22)))
    assert comes_in(SYN).reason is Reason.POLICY
    assert comes_in(ACK) == Outcome(UNSPEC, left, None), "whose it is, and whether it is over, is not known yet"


def test_a_pod_with_the_same_ends(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 443, http=True), rule(CLIENT, 80)))
    for port in (443, 80):
        own = next(fresh)
        packet = frame(ip(kernel.client.ipv4, kernel.server.ipv4, 6, tcp(own, port)))
        kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, 0, kernel.client.ifindex)
        assert kernel.send(packet) == Outcome(OK, kernel.client.ifindex << 16 | LEFT_MARK, Reason.ALLOWED)
        other = frame(ip(kernel.server.ipv4, kernel.client.ipv4, 6, tcp(port, own, SYN | ACK)))
        assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, other).mark & 0xF00 != LEFT_MARK, (
            "an answer has its entry"
        )


class Masked:
    """The client's endpoint with the node's address, as a masquerade gives it, behind a bridge (interface 7)."""

    def __init__(self, kernel: Kernel, port: int) -> None:
        self.kernel, self.own, self.port = kernel, next(fresh), port
        self.mark = kernel.client.ifindex << 16 | SENT_MARK

    def asks_the_node(self) -> Outcome:
        return self.kernel.send(frame(ip(self.kernel.client.ipv4, HOST, 6, tcp(next(fresh), 18080))))

    def arrives(self, flags: int = SYN, mark: int | None = None) -> Outcome:
        packet = frame(ip(HOST, self.kernel.server.ipv4, 6, tcp(self.own, self.port, flags)))
        mark = self.mark if mark is None else mark
        return self.kernel.run(Hook.TO_POD, self.kernel.server.ifindex, packet, mark, 7)


def test_who_was_given_the_nodes_address_is_judged_as_who_it_is(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 443, http=True), rule(CLIENT, 80), rule(9, 22)))
    plain = Masked(kernel, 80)
    assert plain.asks_the_node() == Outcome(OK, plain.mark, Reason.ALLOWED)
    assert [plain.arrives(flags) for flags in (SYN, ACK)] == [Outcome(OK, plain.mark, Reason.ALLOWED)] * 2
    assert Masked(kernel, 443).arrives().reason is Reason.NO_PROXY, "an Envoy of before would take it for the node"
    kernel.datapath.envoy_asks_makers()
    assert [Masked(kernel, 443).arrives(SYN), Masked(kernel, 22).arrives(SYN).reason] == [TURNED, Reason.POLICY]
    for mark in (0, 7 << 16 | SENT_MARK, SENT_MARK, JUDGED):
        assert Masked(kernel, 80).arrives(SYN, mark).reason is Reason.SPOOFED, "nobody knows who it is"
        assert plain.arrives(ACK, mark).reason is Reason.SPOOFED, "nor whether the connection is its own"
    kernel.enforce(server=ingress(rule(9, 22)))
    assert plain.arrives(ACK) == Outcome(TURNED_BACK, TURNED_MARK, None), "it is reset at lo"


def test_what_a_server_answers_is_judged_as_for_who_asked(kernel: Kernel) -> None:
    """The node, whose address that is, may everything; and who asked is looked at when it speaks."""
    kernel.enforce(server=ingress(rule(CLIENT, 80)))
    masked = Masked(kernel, 80)
    masked.asks_the_node()
    assert masked.arrives().reason is Reason.ALLOWED
    answer = frame(ip(kernel.server.ipv4, HOST, 6, tcp(80, masked.own, ACK)))

    def answers() -> Reason | None:
        return kernel.run(Hook.FROM_POD, kernel.server.ifindex, answer).reason

    assert answers() is Reason.ALLOWED
    kernel.enforce(server=ingress(rule(CLIENT, 80), rule(9, 22)))
    assert answers() is Reason.ALLOWED
    assert masked.arrives(ACK, 0).reason is Reason.SPOOFED, "that was no answer to whose it is"
    kernel.enforce(server=ingress(rule(9, 22)))
    assert answers() is Reason.NO_PROXY, "it is reset, by a listener that is not here"


def test_datagrams_are_judged_one_by_one(kernel: Kernel) -> None:
    """Of who has the node's address: nothing else tells whose they are."""
    kernel.enforce(server=ingress(rule(CLIENT, 53, protocol=Protocol.UDP)))
    masked = Masked(kernel, 53)
    masked.asks_the_node()
    packet = frame(ip(HOST, kernel.server.ipv4, 17, udp(masked.own, 53)))
    itself = kernel.run(
        Hook.FROM_POD, kernel.server.ifindex, frame(ip(kernel.server.ipv4, HOST, 6, tcp(next(fresh), 18080)))
    ).mark
    for mark, reason in (
        (masked.mark, Reason.ALLOWED),
        (itself, Reason.POLICY),
        (0, Reason.SPOOFED),
        (masked.mark, Reason.ALLOWED),
    ):
        assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, mark, 7).reason is reason


def test_datagrams_by_ends_by_which_the_server_has_asked_the_node(kernel: Kernel) -> None:
    """They are none of the node's answers."""
    kernel.enforce(server=ingress(rule(9, 53, protocol=Protocol.UDP)))
    masked = Masked(kernel, 53)
    masked.asks_the_node()
    for number in (17, 132):
        own = next(fresh)
        asks = frame(ip(kernel.server.ipv4, HOST, number, udp(53, own)))
        packet = frame(ip(HOST, kernel.server.ipv4, number, udp(own, 53)))
        for _ in range(2):
            assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, asks).reason is Reason.ALLOWED
            for mark, reason in ((masked.mark, Reason.POLICY), (0, Reason.SPOOFED)):
                assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, mark, 7).reason is reason
            assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet).reason is Reason.ALLOWED, "the node's own"
            kernel.enforce(server=ingress(rule(9, 53, protocol=Protocol.UDP), rule(9, 22)))  # judged anew


def test_a_datagram_to_who_was_given_the_nodes_address_may_be_for_the_node(kernel: Kernel) -> None:
    """Conntrack may have forgotten whom it gave that: a socket of the node's would have it."""
    policy = replace(ingress(rule(CLIENT, 53, protocol=Protocol.UDP)), egress=egress(rule(9, 443)).egress)
    kernel.enforce(server=policy)
    masked = Masked(kernel, 53)
    masked.asks_the_node()

    def says(own: int) -> Reason | None:
        packet = frame(ip(kernel.server.ipv4, HOST, 17, udp(53, own)))
        return kernel.run(Hook.FROM_POD, kernel.server.ifindex, packet).reason

    def asks(own: int) -> Reason | None:
        packet = frame(ip(HOST, kernel.server.ipv4, 17, udp(own, 53)))
        return kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, masked.mark, 7).reason

    with kernel.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as listening:
        listening.bind(("0.0.0.0", 0))
        for own, answers in ((next(fresh), Reason.ALLOWED), (listening.getsockname()[1], Reason.POLICY)):
            assert [says(own), asks(own), says(own), asks(own)] == [
                Reason.POLICY,
                Reason.ALLOWED,
                answers,
                Reason.ALLOWED,
            ]


def test_who_is_not_known_comes_to_whoever_lets_in_anybody(kernel: Kernel) -> None:
    """Somebody outside who was given the node's address, as by kube-proxy on its way to a node port."""
    kernel.enforce()
    stranger = Masked(kernel, 80)
    assert [stranger.arrives(flags, 0) for flags in (SYN, ACK)] == [Outcome(OK, 0, Reason.ALLOWED)] * 2
    assert Masked(kernel, 80).arrives(SYN, 9 << 16 | SENT_MARK).reason is Reason.SPOOFED, (
        "an endpoint that is not known"
    )
    for policy in (ingress(rule(9, 80)), ingress(rule(9, 22))):
        kernel.enforce(server=policy)
        assert Masked(kernel, 80).arrives(SYN, 0).reason is Reason.SPOOFED, "whom it may be is of importance"
        assert stranger.arrives(ACK, 0).reason is Reason.SPOOFED, "also to one that was let in"


def test_the_same_ends_may_be_anothers_later(kernel: Kernel) -> None:
    """Envoy goes by who made a connection, and the node's address is nobody's alone."""
    policy = ingress(rule(CLIENT, 443, http=True), rule(SERVER, 443, http=True))
    kernel.enforce(server=policy)
    one = Masked(kernel, 443)
    one.asks_the_node()
    kernel.datapath.envoy_asks_makers()
    kernel.enforce(server=policy)
    assert one.arrives() == TURNED
    itself = frame(ip(kernel.server.ipv4, HOST, 6, tcp(next(fresh), 18080)))
    another = kernel.run(Hook.FROM_POD, kernel.server.ifindex, itself).mark
    assert one.arrives(ACK, another).reason is Reason.SPOOFED
    ends = HOST, one.own, kernel.server.ipv4, 443
    connections = ConnectionMap(kernel.pin_dir / "maps")
    with closing(connections):
        assert connections.made_by(*ends) == (CLIENT, SERVER)
        assert one.arrives(SYN, another) == TURNED
        assert connections.made_by(*ends) == (SERVER, SERVER)
