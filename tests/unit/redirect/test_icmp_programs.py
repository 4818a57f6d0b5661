"""ICMP as the programs judge it (BPF_PROG_TEST_RUN): questions by their type, answers by what they are about."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
    Protocol,
)
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    CLIENT,
    SERVER,
    WORLD,
    Kernel,
    Outcome,
    both,
    frame,
    fresh,
    icmp,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)


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
