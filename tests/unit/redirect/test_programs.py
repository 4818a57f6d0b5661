"""The programs, run by the kernel on packets made here (BPF_PROG_TEST_RUN): every byte under control."""

from __future__ import annotations

import socket
import struct
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.verdict import Judgement, Verdict, judge
from lockgate.policies.workload import IPAddress
from lockgate.redirect import layout
from lockgate.redirect.drop_log import DropLog
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.map_changes import MapDelta
from lockgate.redirect.plan import DatapathPlan, Owner
from lockgate.redirect.proxy_sockets import Carried
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    ACK,
    CLIENT,
    DNS,
    ENVOY_MARK,
    FIN,
    HOST,
    HOST_LINK,
    JUDGED,
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

NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
ports = st.sampled_from([1, 80, 81, 8080])
spans = st.builds(
    lambda protocol, one, other: PortSpan(protocol, min(one, other), max(one, other)),
    st.sampled_from(list(NUMBERS)),
    ports,
    ports,
)
rules = st.builds(
    lambda deny, http, peers, ports: ResolvedRule(
        ORIGIN, deny, peers, ports, HttpRules((HttpRule(),)) if http and not deny else None
    ),
    st.booleans(),
    st.booleans(),
    st.none() | st.frozensets(st.sampled_from([CLIENT, SERVER, 9]), max_size=2),
    st.none() | st.lists(spans, max_size=2).map(tuple),
)
directions = st.builds(DirectionPolicy, st.booleans(), st.lists(rules, max_size=3).map(tuple))


def lacks_a_proxy(half: Judgement) -> bool:
    """True when the denial is for want of a proxy that takes the protocol, and not a rule's or the default's."""
    redirects = any(each.matched and each.rule.redirects for each in half.considered)
    return half.verdict is Verdict.DENY and half.rule is None and redirects


@settings(max_examples=150, deadline=None)
@given(directions, directions, st.sampled_from(list(NUMBERS)), ports, st.sampled_from([4, 6]))
def test_the_program_does_what_judge_says(
    kernel: Kernel, egress: DirectionPolicy, server: DirectionPolicy, protocol: Protocol, port: int, version: int
) -> None:
    wanted = kernel.enforce(EndpointPolicy(egress=egress), EndpointPolicy(ingress=server))
    source, destination = both(kernel, version)
    sport = next(fresh)
    segment = tcp(sport, port) if protocol is Protocol.TCP else udp(sport, port)
    outcome = kernel.send(frame(ip(source, destination, NUMBERS[protocol], segment)))

    halves = [judge(egress, SERVER, protocol, port), judge(server, CLIENT, protocol, port)]
    if any(half.verdict is Verdict.DENY and not lacks_a_proxy(half) for half in halves):
        expected = Reason.POLICY
    elif any(half.redirected or lacks_a_proxy(half) for half in halves):
        # No Envoy listens in this namespace.
        expected = Reason.NO_PROXY if protocol is Protocol.TCP else Reason.NOT_TCP
    else:
        expected = Reason.ALLOWED
    assert outcome.reason is expected
    assert outcome.action == (OK if expected is Reason.ALLOWED else SHOT)
    model = wanted.judge(source, destination, protocol, port).verdict.name
    assert model == {Reason.POLICY: "DENY", Reason.ALLOWED: "ALLOW"}.get(expected, "REDIRECT")


@pytest.mark.parametrize("version", [4, 6])
def test_packets_that_are_not_read_whole_are_dropped(kernel: Kernel, version: int) -> None:
    kernel.enforce()
    source, destination = both(kernel, version)
    segment = udp(next(fresh), 80)
    whole = frame(ip(source, destination, 17, segment))
    assert kernel.send(whole).reason is Reason.ALLOWED
    assert kernel.send(whole[: len(whole) - len(segment) + 2]).reason is Reason.MALFORMED
    assert kernel.send(frame(ip(source, destination, 6, tcp(1, 80)[:12]))).reason is Reason.MALFORMED
    for unknown in (0, 2, 43, 44, 47, 50, 51, 60, 135, 255):
        assert kernel.send(frame(ip(source, destination, unknown, segment))).reason is Reason.UNSUPPORTED
    wrong_version = ether(ip(source, destination, 17, segment), 0x0800 if version == 6 else 0x86DD)
    assert kernel.send(wrong_version).reason is Reason.MALFORMED
    for kind in (0x8100, 0x88A8, 0x8847, 0x9000):
        assert kernel.send(ether(ip(source, destination, 17, segment), kind)).reason is Reason.UNSUPPORTED


def test_fragments_and_short_header_lengths(kernel: Kernel) -> None:
    kernel.enforce()
    source, destination = kernel.client.ipv4, kernel.server.ipv4
    segment = udp(next(fresh), 80)
    for fragment in (0x2000, 1, 0x1FFF):
        assert kernel.send(frame(ip(source, destination, 17, segment, fragment))).reason is Reason.FRAGMENT
    dont_fragment = frame(ip(source, destination, 17, segment, 0x4000))
    assert kernel.send(dont_fragment).reason is Reason.ALLOWED
    packet = bytearray(dont_fragment)
    packet[14] = 0x44
    assert kernel.send(bytes(packet)).reason is Reason.MALFORMED


def test_ports_are_found_behind_ipv4_options(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 80)))
    source, destination = kernel.client.ipv4, kernel.server.ipv4
    # Behind five words of options; where the ports would be without them stands an allowed port.
    options = tcp(1, 80)
    for port, expected in ((80, Reason.ALLOWED), (81, Reason.POLICY)):
        packet = ip(source, destination, 6, tcp(next(fresh), port), options=options)
        assert kernel.send(frame(packet)).reason is expected


def test_sources_must_be_the_endpoints_own(kernel: Kernel) -> None:
    kernel.enforce()
    destination = kernel.server.ipv4
    for source in (destination, HOST, WORLD, ip_address("0.0.0.0"), ip_address("127.0.0.1")):
        assert kernel.send(frame(ip(source, destination, 17, udp(1, 2)))).reason is Reason.SPOOFED
    for source in (kernel.server.ipv6, ip_address("::"), ip_address("fe80::2")):
        assert kernel.send(frame(ip(source, kernel.server.ipv6, 17, udp(1, 2)))).reason is Reason.SPOOFED


@pytest.mark.parametrize("version", [4, 6])
def test_a_drop_leaves_a_record_and_what_passes_none(kernel: Kernel, version: int) -> None:
    client, server = both(kernel, version)
    kernel.enforce(egress(rule(None, 80)))
    with closing(DropLog(kernel.pin_dir)) as log:
        before = max((each.at for each in log.read()), default=0)
        port = next(fresh)
        assert kernel.send(frame(ip(client, server, 6, tcp(port, 80)))).reason is Reason.ALLOWED
        assert log.read(before) == []
        assert kernel.send(frame(ip(client, server, 6, tcp(port, 81)))).reason is Reason.POLICY
        (found,) = log.read(before)
        assert (found.source, found.source_port, found.destination, found.destination_port) == (
            client,
            port,
            server,
            81,
        )
        assert (found.protocol, found.reason, found.direction) == (6, Reason.POLICY, Direction.EGRESS)
        assert found.ifindex == kernel.client.ifindex
        assert log.read(found.at) == []
        for _ in range(2 * layout.DROPS_KEPT):
            kernel.send(frame(ip(client, server, 6, tcp(next(fresh), 81))))
        kept = log.read(found.at)
        assert kept == sorted(kept)
        assert len(kept) >= layout.DROPS_KEPT, "of each CPU the last ones"


def test_ipv4_addresses_in_ipv6_clothes_are_dropped(kernel: Kernel) -> None:
    kernel.enforce()
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + kernel.client.ipv4.packed)
    for source, destination in ((mapped, kernel.server.ipv6), (kernel.client.ipv6, mapped)):
        assert kernel.send(frame(ip(source, destination, 17, udp(1, 2)))).reason is Reason.MALFORMED


def test_loopback_is_out_of_reach(kernel: Kernel) -> None:
    kernel.enforce()
    for source, text in ((kernel.client.ipv4, "127.0.0.1"), (kernel.client.ipv6, "::1")):
        assert kernel.send(frame(ip(source, ip_address(text), 6, tcp(1, 15001)))).reason is Reason.ADDRESS


def test_the_link_itself_works(kernel: Kernel) -> None:
    kernel.enforce(client=EndpointPolicy(egress=DirectionPolicy(default_deny=True)))
    link_local, router = IPv6Address("fe80::2"), IPv6Address("ff02::2")
    assert kernel.send(ether(bytes(28), 0x0806)) == Outcome(OK, JUDGED, None)
    for kind in (133, 135, 136):
        message = icmp(kind, rest=link_local.packed)
        near, far = (frame(ip(link_local, router, 58, message, hops=hops)) for hops in (255, 254))
        assert kernel.send(near) == Outcome(OK, JUDGED, None)
        assert kernel.send(far).reason is Reason.MALFORMED
    for kind in (134, 137):  # a pod neither advertises routes nor redirects
        assert kernel.send(frame(ip(link_local, router, 58, icmp(kind), hops=255))).action == SHOT


def test_a_pod_speaks_for_no_other_address_on_the_link(kernel: Kernel) -> None:
    kernel.enforce()

    def arp(sender: IPAddress) -> Reason | None:
        head = struct.pack("!HHBBH6s", 1, 0x0800, 6, 4, 2, bytes(6))
        return kernel.send(ether(head + sender.packed + bytes(6) + kernel.client.ipv4.packed, 0x0806)).reason

    assert arp(kernel.client.ipv4) is None
    assert arp(ip_address("0.0.0.0")) is None, "a probe for a double address"
    for sender in (kernel.server.ipv4, HOST, WORLD, ip_address("127.0.0.1")):
        assert arp(sender) is Reason.SPOOFED
    assert kernel.send(ether(bytes(17), 0x0806)).reason is Reason.MALFORMED

    def neighbour(kind: int, source: IPAddress, target: IPAddress) -> Reason | None:
        message = icmp(kind, rest=target.packed)
        return kernel.send(frame(ip(source, ip_address("ff02::1"), 58, message, hops=255))).reason

    own, link_local, nobody = kernel.client.ipv6, ip_address("fe80::2"), ip_address("::")
    for kind in (133, 135, 136):
        for source in (own, link_local, nobody):
            assert neighbour(kind, source, own) is None
        for source in (kernel.server.ipv6, HOST_LINK, ip_address("2001:db8::9")):
            assert neighbour(kind, source, own) is Reason.SPOOFED
    assert neighbour(136, own, link_local) is None
    for target in (kernel.server.ipv6, HOST_LINK, ip_address("2001:db8::9")):
        assert neighbour(136, own, target) is Reason.SPOOFED
    assert kernel.send(frame(ip(own, own, 58, icmp(136), hops=255))).reason is Reason.MALFORMED


def test_the_mark_names_the_endpoint_that_was_asked(kernel: Kernel) -> None:
    kernel.enforce()
    client, server = kernel.client, kernel.server
    packet = frame(ip(client.ipv4, server.ipv4, 6, tcp(next(fresh), 80)))
    judged = kernel.send(packet)
    assert judged == Outcome(OK, server.ifindex << 16 | 0x400, Reason.ALLOWED)
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, judged.mark, client.ifindex).reason is Reason.ALLOWED
    assert kernel.run(Hook.TO_POD, client.ifindex, packet, judged.mark, client.ifindex).reason is Reason.ADDRESS
    # Also when the connection is known: somebody on a shared link pretends to be the server.
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, 0, client.ifindex).reason is Reason.ALLOWED
    data = frame(ip(client.ipv4, server.ipv4, 6, tcp(5, 80, ACK)))
    assert kernel.run(Hook.TO_POD, client.ifindex, data, 0, client.ifindex).reason is Reason.ADDRESS
    for there in (HOST, WORLD):
        sent = kernel.send(frame(ip(client.ipv4, there, 6, tcp(next(fresh), 80))))
        assert sent == Outcome(OK, JUDGED, Reason.ALLOWED)


def test_replies_pass_and_new_connections_the_other_way_do_not(kernel: Kernel) -> None:
    kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, 80), rule(CLIENT, 53, protocol=Protocol.UDP)))
    client, server = kernel.client, kernel.server
    port = next(fresh)

    def answer(number: int, segment: bytes) -> Outcome:
        return kernel.run(Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, client.ipv4, number, segment)))

    assert answer(6, tcp(80, port, SYN | ACK)).reason is Reason.POLICY
    assert answer(17, udp(53, port)).reason is Reason.POLICY
    assert kernel.send(frame(ip(client.ipv4, server.ipv4, 6, tcp(port, 80)))).reason is Reason.ALLOWED
    assert kernel.send(frame(ip(client.ipv4, server.ipv4, 17, udp(port, 53)))).reason is Reason.ALLOWED
    assert answer(6, tcp(80, port, SYN | ACK)).reason is Reason.ALLOWED
    assert answer(17, udp(53, port)).reason is Reason.ALLOWED
    assert answer(6, tcp(80, port, SYN)).reason is Reason.POLICY
    assert answer(6, tcp(80, port + 1, ACK)).reason is Reason.POLICY
    # A stricter policy is asked again, about the connection and not about the reply.
    kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, 80)))
    assert answer(6, tcp(80, port, ACK)).reason is Reason.ALLOWED
    assert answer(17, udp(53, port)).reason is Reason.POLICY


def test_pings_and_errors_belong_to_their_connection(kernel: Kernel) -> None:
    kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, 8, protocol=Protocol.ICMP), rule(CLIENT, 80)))
    client, server = kernel.client, kernel.server

    def answer(packet: bytes) -> Outcome:
        return kernel.run(Hook.FROM_POD, server.ifindex, frame(packet))

    assert answer(ip(server.ipv4, client.ipv4, 1, icmp(0, 77))).reason is Reason.POLICY
    assert kernel.send(frame(ip(client.ipv4, server.ipv4, 1, icmp(8, 77)))).reason is Reason.ALLOWED
    assert answer(ip(server.ipv4, client.ipv4, 1, icmp(0, 77))).reason is Reason.ALLOWED
    port = next(fresh)
    sent = ip(client.ipv4, server.ipv4, 6, tcp(port, 80))
    error = ip(server.ipv4, client.ipv4, 1, icmp(3, 0, sent[:28]))
    assert answer(error).reason is Reason.POLICY
    kernel.send(frame(sent))
    assert answer(error).reason is Reason.ALLOWED
    # About a packet that the error's receiver never sent.
    foreign = ip(IPv4Address("10.200.0.77"), server.ipv4, 6, tcp(port, 80))
    assert answer(ip(server.ipv4, client.ipv4, 1, icmp(3, 0, foreign[:28]))).reason is Reason.SPOOFED


@pytest.mark.parametrize("version", [4, 6])
def test_a_router_on_the_way_may_answer_and_a_pod_may_not_play_router(kernel: Kernel, version: int) -> None:
    kernel.enforce(client=ingress())
    client, server = kernel.client, kernel.server
    source, destination = both(kernel, version)
    here = WORLD if version == 4 else ip_address("fe80::1")
    port = next(fresh)
    number, kind = (1, 11) if version == 4 else (58, 3)

    def expired(sender: IPAddress, sport: int) -> bytes:
        quoted = ip(source, destination, 17, udp(sport, 53))
        return frame(ip(sender, source, number, icmp(kind, 0, quoted[:48])))

    assert kernel.run(Hook.TO_POD, client.ifindex, expired(here, port)).reason is Reason.POLICY
    kernel.send(frame(ip(source, destination, 17, udp(port, 53))))
    assert kernel.run(Hook.TO_POD, client.ifindex, expired(here, port)).reason is Reason.ALLOWED
    third = WORLD if version == 4 else ip_address("2001:db8::9")
    assert kernel.run(Hook.FROM_POD, server.ifindex, expired(third, port)).reason is Reason.SPOOFED


PINGS = {4: (1, Protocol.ICMP, 8, 0, 3), 6: (58, Protocol.ICMPV6, 128, 129, 1)}  # question, answer, unreachable


@pytest.mark.parametrize("version", [4, 6])
def test_icmp_is_judged_by_its_type(kernel: Kernel, version: int) -> None:
    number, protocol, question, reply, unreachable = PINGS[version]
    kernel.enforce(
        client=EndpointPolicy(
            ingress=DirectionPolicy(True, ()),
            egress=DirectionPolicy(True, (rule(SERVER, question, unreachable, protocol=protocol),)),
        )
    )
    source, destination = both(kernel, version)

    def ask(kind: int, identifier: int = 0, rest: bytes = b"") -> Reason | None:
        return kernel.send(frame(ip(source, destination, number, icmp(kind, identifier, rest)))).reason

    def come(kind: int, identifier: int) -> Reason | None:
        packet = frame(ip(destination, source, number, icmp(kind, identifier)))
        return kernel.run(Hook.FROM_POD, kernel.server.ifindex, packet).reason

    assert come(reply, 300) is Reason.POLICY
    assert ask(question, 300) is Reason.ALLOWED
    assert come(reply, 300) is Reason.ALLOWED
    assert come(reply, 301) is Reason.POLICY
    assert come(question, 300) is Reason.POLICY  # an answer, and not a question with the same identifier
    for kind in {reply, 5, 10, 13, 14, 42, 134, 160} - {question}:
        assert ask(kind, 300) is Reason.POLICY
        assert come(kind, 302) is Reason.POLICY
    # An error that no connection explains is a message like every other.
    quoted = ip(destination, source, 17, udp(9, next(fresh)))
    assert ask(unreachable, 0, quoted[:48]) is Reason.ALLOWED
    assert ask(unreachable + 1 if version == 6 else 11, 0, quoted[:48]) is Reason.POLICY


def test_no_message_without_a_question_answers_another(kernel: Kernel) -> None:
    for version, number, protocol, kind in ((4, 1, Protocol.ICMP, 5), (6, 58, Protocol.ICMPV6, 0)):
        kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, kind, protocol=protocol)))
        source, destination = both(kernel, version)
        assert kernel.send(frame(ip(source, destination, number, icmp(kind)))).reason is Reason.ALLOWED
        back = frame(ip(destination, source, number, icmp(kind)))
        assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, back).reason is Reason.POLICY


def test_every_kind_of_question_has_its_answer(kernel: Kernel) -> None:
    for version, number, pairs in ((4, 1, ((8, 0), (13, 14), (42, 43))), (6, 58, ((128, 129), (160, 161)))):
        protocol = Protocol.ICMP if version == 4 else Protocol.ICMPV6
        for question, reply in pairs:
            kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, question, protocol=protocol)))
            source, destination = both(kernel, version)
            identifier = next(fresh)
            back = frame(ip(destination, source, number, icmp(reply, identifier)))
            assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, back).reason is Reason.POLICY
            assert (
                kernel.send(frame(ip(source, destination, number, icmp(question, identifier)))).reason is Reason.ALLOWED
            )
            assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, back).reason is Reason.ALLOWED
            # What answers a ping with "unreachable" quotes it.
            asked = ip(source, destination, number, icmp(question, identifier))
            error = frame(ip(destination, source, number, icmp(3 if version == 4 else 1, 0, asked[:48])))
            assert kernel.run(Hook.FROM_POD, kernel.server.ifindex, error).reason is Reason.ALLOWED


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


def test_a_connection_remembers_which_ends_have_had_their_say(kernel: Kernel) -> None:
    kernel.enforce()
    client = kernel.client

    def busy(*packets: tuple[str, int]) -> bool:
        there = ip_address(f"198.51.100.{next(fresh) % 256}")
        for sender, flags in (("client", SYN), ("server", SYN | ACK), *packets):
            if sender == "client":
                outcome = kernel.send(frame(ip(client.ipv4, there, 6, tcp(5000, 80, flags))))
            else:
                packet = frame(ip(there, client.ipv4, 6, tcp(80, 5000, flags)))
                outcome = kernel.run(Hook.TO_POD, client.ifindex, packet, 0, kernel.server.ifindex)
            assert outcome.reason is Reason.ALLOWED
            kernel.enforce(client=ingress()) if sender == "client" else kernel.enforce()  # judged anew in between
        assert kernel.datapath.busy({ip_address("203.0.113.1")}) == frozenset()
        return there in kernel.datapath.busy({there, WORLD})

    assert busy()
    assert busy(("client", FIN | ACK))
    assert busy(("client", FIN | ACK), ("client", ACK), ("server", ACK))
    assert not busy(("client", FIN | ACK), ("server", FIN | ACK))
    assert not busy(("client", FIN | ACK), ("server", ACK), ("server", FIN | ACK), ("client", ACK))
    assert not busy(("server", RST))
    assert busy(("server", RST), ("client", SYN))


@pytest.mark.parametrize("peer", [WORLD, ip_address("2001:db8::9"), ip_address("8.8.8.8"), ip_address("fe00::1")])
def test_a_connection_is_whose_it_was_when_it_was_made(kernel: Kernel, peer: IPAddress) -> None:
    """Of addresses before and behind the endpoint's own: the greater one comes second in the map's key."""
    world, own = (9, kernel.client.ipv4) if peer.version == 4 else (10, kernel.client.ipv6)

    def sent(source: IPAddress, destination: IPAddress, sport: int, dport: int, flags: int) -> None:
        packet = frame(ip(source, destination, 6, tcp(sport, dport, flags)))
        out = source == own
        outcome = kernel.send(packet) if out else kernel.run(Hook.TO_POD, kernel.client.ifindex, packet, 0, 1)
        assert outcome.reason is Reason.ALLOWED

    def made_by(client: IPAddress, server: IPAddress, port: int) -> tuple[int, int] | None:
        carried = Carried(client, port, server, 80, True, client.version, b"")
        return kernel.datapath.made_by([carried]).get(carried)

    for client, server in ((own, peer), (peer, own)):
        kernel.enforce()
        port, before = next(fresh), (CLIENT, world) if client == own else (world, CLIENT)
        assert made_by(client, server, port) is None
        sent(client, server, port, 80, SYN)
        assert made_by(client, server, port) == before
        kernel.datapath.readdress(MapDelta({ip_network(peer): Owner(4711)}, frozenset()))
        for flags in (ACK, SYN):  # judged anew, and by a packet that a pod could forge
            sent(client, server, port, 80, flags)
            assert made_by(client, server, port) == before
        sent(server, client, 80, port, RST | ACK)
        sent(client, server, port, 80, SYN)
        assert made_by(client, server, port) == ((CLIENT, 4711) if client == own else (4711, CLIENT))
        port = next(fresh)
        sent(client, server, port, 80, ACK)
        assert made_by(client, server, port) is None, "nobody has seen its beginning"
    kernel.enforce()


def test_what_no_proxy_takes_is_dropped(kernel: Kernel) -> None:
    spans = tuple(PortSpan(protocol, 53, 53) for protocol in (Protocol.UDP, Protocol.SCTP))
    http = ResolvedRule(ORIGIN, False, None, (*spans, PortSpan(Protocol.UDP, 80, 80)), HttpRules((HttpRule(),)))
    for policy, number, port in ((egress(http), 17, 80), (egress(replace(http, l7=DNS)), 132, 53)):
        kernel.enforce(client=policy)
        packet = ip(kernel.client.ipv4, kernel.server.ipv4, number, udp(next(fresh), port))
        assert kernel.send(frame(packet)).reason is Reason.NOT_TCP


def test_what_reaches_a_pod_from_elsewhere(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(9, 80), rule(9, 443, http=True), rule(CLIENT, 443, http=True)))
    server = kernel.server

    def arrive(source: IPAddress, port: int, mark: int = 0, came_from: int = 0) -> Reason | None:
        packet = frame(ip(source, server.ipv4, 6, tcp(next(fresh), port)))
        return kernel.run(Hook.TO_POD, server.ifindex, packet, mark, came_from).reason

    uplink = kernel.client.ifindex
    assert arrive(HOST, 9999) is Reason.ALLOWED
    assert arrive(HOST, 9999, came_from=uplink) is Reason.SPOOFED
    assert arrive(WORLD, 80, came_from=uplink) is Reason.ALLOWED
    assert arrive(WORLD, 81, came_from=uplink) is Reason.POLICY
    assert arrive(WORLD, 443, came_from=uplink) is Reason.REDIRECTED
    assert arrive(WORLD, 443, TURNED_MARK, came_from=uplink) is Reason.UNPROXIED, "it went by lo, and nobody was there"
    assert arrive(kernel.client.ipv4, 443) is Reason.UNPROXIED
    assert arrive(kernel.client.ipv4, 443, ENVOY_MARK) is Reason.ALLOWED
    assert arrive(kernel.client.ipv4, 9999, ENVOY_MARK) is Reason.POLICY


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


def test_a_connection_that_is_no_longer_allowed_is_reset(kernel: Kernel) -> None:
    """Envoy's listener gets the packet, and answers what it knows nothing of with a reset. A test run can find a
    listener and not give it anything, which counts as NO_PROXY; what is merely denied counts as POLICY."""
    usual = ingress(rule(CLIENT, 80), rule(CLIENT, 53, protocol=Protocol.UDP), rule(9, 80))
    kernel.enforce(server=usual)
    client, server = kernel.client, kernel.server
    port = next(fresh)

    def packets(flags: int) -> list[tuple[Hook, int, bytes]]:
        there, back = tcp(port, 80, flags), tcp(80, port, flags | ACK)
        return [
            (Hook.FROM_POD, client.ifindex, frame(ip(client.ipv4, server.ipv4, 6, there))),
            (Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, client.ipv4, 6, back))),
            (Hook.FROM_UPLINK, 1, frame(ip(WORLD, server.ipv4, 6, there))),
            (Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, WORLD, 6, back))),
        ]

    datagram = frame(ip(client.ipv4, server.ipv4, 17, udp(port, 53)))
    for flags in (SYN, ACK):
        assert {kernel.run(*each).reason for each in packets(flags)} <= {Reason.ALLOWED, None}
    assert kernel.send(datagram).reason is Reason.ALLOWED
    for tightened in (ingress(), ingress(rule(CLIENT, 80, http=True), rule(9, 80, http=True))):
        kernel.enforce(server=tightened)
        for each in packets(ACK):
            assert kernel.run(*each) == Outcome(SHOT, 0, Reason.NO_PROXY)
        for hook, ifindex, packet in packets(RST | ACK):
            assert kernel.run(hook, ifindex, packet).action == (UNSPEC if hook is Hook.FROM_UPLINK else OK)
        assert kernel.send(datagram).reason is Reason.POLICY
        # What never was a connection is none that is reset.
        stranger = frame(ip(client.ipv4, server.ipv4, 6, tcp(next(fresh), 80, ACK)))
        expected = Reason.NO_PROXY if tightened.ingress.redirects else Reason.POLICY
        assert kernel.send(stranger).reason is expected
    kernel.enforce(server=usual)
    assert kernel.run(*packets(ACK)[2]) == Outcome(UNSPEC, server.ifindex << 16 | 0x400, None)


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


def test_an_unknown_endpoint_is_mute(kernel: Kernel) -> None:
    packet = frame(ip(kernel.client.ipv4, kernel.server.ipv4, 17, udp(next(fresh), 80)))
    kernel.enforce()
    assert kernel.send(packet).reason is Reason.ALLOWED
    kernel.datapath.apply(DatapathPlan())
    assert kernel.send(packet).reason is Reason.UNSYNCED
    assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet).reason is Reason.UNSYNCED


def test_the_nodes_own_resets_reach_both_ends(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 80, http=True)))
    client, server = kernel.client, kernel.server
    for pod, source, destination in ((client, server.ipv4, client.ipv4), (server, client.ipv4, server.ipv4)):
        packet = frame(ip(source, destination, 6, tcp(next(fresh), next(fresh), RST | ACK)))
        assert kernel.run(Hook.TO_POD, pod.ifindex, packet).reason is Reason.ALLOWED
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, came_from=client.ifindex).reason is Reason.POLICY


def test_directions_are_counted_from_the_endpoint(kernel: Kernel) -> None:
    kernel.enforce()
    before = {each.direction: each.packets for each in kernel.datapath.counters() if each.reason is Reason.ALLOWED}
    kernel.send(frame(ip(kernel.client.ipv4, kernel.server.ipv4, 17, udp(next(fresh), 80))))
    after = {each.direction: each.packets for each in kernel.datapath.counters() if each.reason is Reason.ALLOWED}
    assert after == {Direction.EGRESS: before[Direction.EGRESS] + 1, Direction.INGRESS: before[Direction.INGRESS]}
