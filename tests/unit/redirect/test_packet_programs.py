"""How the programs read a packet (BPF_PROG_TEST_RUN). What they cannot read, or is not its sender's, is dropped."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

import pytest
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
)
from lockgate.policies.workload import IPAddress
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    CLIENT,
    HOST,
    HOST_LINK,
    JUDGED,
    OK,
    SHOT,
    WORLD,
    Kernel,
    Outcome,
    both,
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


def test_neighbour_discovery_beyond_the_link_is_a_message_like_others(kernel: Kernel) -> None:
    client, server = both(kernel, 6)
    beyond = IPv6Address("2001:db8::9")

    def ask(there: IPAddress, source: IPAddress = client) -> Outcome:
        return kernel.send(frame(ip(source, there, 58, icmp(135, rest=beyond.packed), hops=255)))

    kernel.enforce(client=EndpointPolicy(egress=DirectionPolicy(default_deny=True)))
    assert ask(beyond).reason is Reason.POLICY
    for link in (server, HOST_LINK, IPv6Address("fe80::7"), IPv6Address("ff02::1:ff00:9")):
        assert ask(link) == Outcome(OK, JUDGED, None)
    kernel.enforce()
    assert ask(beyond).reason is Reason.ALLOWED
    for other in (server, IPv6Address("fe80::7"), IPv6Address("::")):
        assert ask(beyond, other).reason is Reason.SPOOFED


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
