"""The bridge of a container engine, run by the kernel on packets made here: nobody is on it but endpoints."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.plan import Owner
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    HOST,
    JUDGED,
    OK,
    PROXY_MARK,
    SHOT,
    UNSPEC,
    WORLD,
    Kernel,
    Outcome,
    ether,
    frame,
    fresh,
    icmp,
    ip,
    tcp,
    udp,
)

STRANGER = ip_address("172.17.0.9")
SUBNET = ip_network("172.17.0.0/16")
CUT_OFF = Outcome(SHOT, 0, Reason.UNSYNCED)
FEIGNED = Outcome(SHOT, 0, Reason.SPOOFED)
PASSES = Outcome(UNSPEC, 0, None)


def rises(kernel: Kernel, packet: bytes, mark: int = 0) -> Outcome:
    return kernel.run(Hook.FROM_BRIDGE, kernel.outside.ifindex, packet, mark)


def falls(kernel: Kernel, packet: bytes) -> Outcome:
    return kernel.run(Hook.TO_BRIDGE, kernel.outside.ifindex, packet)


def arp(sender: IPAddress) -> bytes:
    return ether(struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, bytes(6), sender.packed, bytes(6), bytes(4)), 0x0806)


def advertisement(source: IPAddress, target: IPAddress) -> bytes:
    message = icmp(136, rest=target.packed)
    return frame(ip(source, IPv6Address("ff02::1"), 58, message, hops=255))


def test_what_from_pod_has_not_let_through_stays_below(kernel: Kernel) -> None:
    kernel.enforce()
    for source in (STRANGER, kernel.client.ipv4, WORLD):
        for destination in (WORLD, HOST, kernel.server.ipv4):
            assert rises(kernel, frame(ip(source, destination, 6, tcp(next(fresh), 80)))) == CUT_OFF
            assert rises(kernel, frame(ip(source, destination, 17, udp(next(fresh), 80)))) == CUT_OFF
            assert rises(kernel, frame(ip(source, destination, 17, udp(1, 80), fragment=0x2000))) == CUT_OFF
    assert rises(kernel, frame(ip(kernel.client.ipv6, kernel.server.ipv6, 6, tcp(1, 80)))) == CUT_OFF
    assert rises(kernel, ether(bytes(40), 0x88CC)) == CUT_OFF


def test_what_from_pod_has_let_through_rises(kernel: Kernel) -> None:
    kernel.enforce()
    for destination in (WORLD, kernel.server.ipv4):
        packet = frame(ip(kernel.client.ipv4, destination, 6, tcp(next(fresh), 80)))
        judged = kernel.send(packet)
        assert judged.reason is Reason.ALLOWED
        assert rises(kernel, packet, judged.mark) == Outcome(UNSPEC, judged.mark, None)
        assert rises(kernel, packet, PROXY_MARK) == Outcome(UNSPEC, PROXY_MARK, None)


def test_only_endpoints_are_below(kernel: Kernel) -> None:
    kernel.enforce()
    for source in (WORLD, HOST, kernel.client.ipv4):
        assert falls(kernel, frame(ip(source, kernel.server.ipv4, 6, tcp(1, 80)))) == PASSES
        for destination in (STRANGER, WORLD, IPv4Address("224.0.0.251"), IPv4Address("255.255.255.255")):
            assert falls(kernel, frame(ip(source, destination, 17, udp(1, 80)))) == CUT_OFF
    assert falls(kernel, frame(ip(HOST, kernel.server.ipv4, 17, udp(1, 80), fragment=0x2000))) == PASSES, "to_pod's"


def test_the_link_works_and_nobody_speaks_for_an_endpoint(kernel: Kernel) -> None:
    kernel.enforce()
    server = kernel.server
    strange = IPv6Address("fd00:99::9")
    for packet in (arp(STRANGER), advertisement(strange, strange)):
        assert rises(kernel, packet) == falls(kernel, packet) == PASSES
        assert kernel.run(Hook.TO_POD, server.ifindex, packet, 0, 7) == Outcome(OK, 0, None)
    for packet in (arp(kernel.client.ipv4), advertisement(strange, kernel.client.ipv6)):
        assert rises(kernel, packet) == FEIGNED
        assert kernel.run(Hook.TO_POD, server.ifindex, packet, 0, 7) == FEIGNED
        assert kernel.run(Hook.TO_POD, server.ifindex, packet, JUDGED, 7) == Outcome(OK, JUDGED, None)
        assert kernel.run(Hook.TO_POD, server.ifindex, packet) == Outcome(OK, 0, None), "the node's own"


def test_an_endpoint_and_a_stranger_on_one_bridge(kernel: Kernel) -> None:
    """What neither from_bridge nor to_bridge sees."""
    plan = kernel.enforce(closed=(SUBNET,))
    assert plan.owner(STRANGER) == Owner(0)
    segment = tcp(next(fresh), 80)
    assert kernel.send(frame(ip(kernel.client.ipv4, STRANGER, 6, segment))).reason is Reason.ADDRESS
    packet = frame(ip(STRANGER, kernel.server.ipv4, 6, segment))
    assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet, 0, 7).reason is Reason.ADDRESS
