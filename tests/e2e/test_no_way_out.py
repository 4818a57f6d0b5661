"""What a pod sends to where no endpoint of the node is, where it may send little: by the world's own capture."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator
from ctypes import addressof, create_string_buffer
from functools import partial
from ipaddress import IPv6Address, ip_address

import pytest
from lockgate.agent.playground import UPLINK, Outside
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode, live_node
from lockgate.tests.e2e.wire import ICMPV6, TCP, UDP, Wire, icmpv6, ip, tcp, udp, with_checksum

OPEN, SHUT = 5353, 9090
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "5353"}]}]
"""
_SIOCETHTOOL, _ETHTOOL_STXCSUM = 0x8946, 0x17
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


class Exit:
    """The frontend's interface, and the world's."""

    def __init__(self, node: LiveNode, outside: Outside) -> None:
        self.node, self.outside = node, outside
        self.pod, self.world = Wire(node.frontend, node.node), Wire(outside, node.node)

    def ends(self, family: int) -> tuple[IPAddress, IPAddress]:
        return self.node.frontend.ips[family], self.outside.ips[family]

    def leaves(self, send: Callable[[], None]) -> list[bytes]:
        """The frames that came to the world until an allowed datagram did that was sent last."""
        self.world.received()
        send()
        (source, there), mark = self.ends(0), os.urandom(16)
        self.pod.send(ip(source, there, UDP, udp(source, there, 4000, OPEN, mark)))
        frames: list[bytes] = []

        def came() -> bool:
            frames.extend(self.world.received())
            return any(mark in frame for frame in frames)

        self.node.until("an allowed datagram leaves", came)
        return frames

    def close(self) -> None:
        self.pod.close()
        self.world.close()


def write_checksums(interface: str) -> None:
    """The kernel finishes what leaves by the interface, as a network card would."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        value = create_string_buffer(struct.pack("=II", _ETHTOOL_STXCSUM, 0))
        fcntl.ioctl(any_socket, _SIOCETHTOOL, struct.pack("16sQ16x", interface.encode(), addressof(value)))


@pytest.fixture(scope="module")
def exit_() -> Iterator[Exit]:
    with live_node(start=False) as node:
        outside = node.ground.outside()
        for path in node.policies.iterdir():
            path.unlink()
        node.write("out", POLICY)
        netns.run_in(node.node.path, lambda: write_checksums(UPLINK))
        made = Exit(node, outside)
        try:
            node.start_agent()
            yield made
        finally:
            made.close()


@FAMILIES
@pytest.mark.parametrize("protocol", [UDP, TCP], ids=["udp", "tcp"])
def test_a_checksum_that_is_written_over_the_port(exit_: Exit, family: int, protocol: int) -> None:
    """A packet socket may say where; who judges sees the port that was there before."""
    source, there = exit_.ends(family)
    make = udp if protocol == UDP else tcp
    head, at = (40 if family else 20), 2
    segment = make(source, there, 4001, OPEN, data=os.urandom(8) + bytes(2))
    packet = ip(source, there, protocol, with_checksum(segment, SHUT))
    frames = exit_.leaves(lambda: exit_.pod.send_unfinished(packet, head, at))
    assert [frame for frame in frames if segment[-10:-2] in frame] == []


@pytest.mark.parametrize("at", [22, 38], ids=["source", "destination"])
def test_a_checksum_that_is_written_over_an_address(exit_: Exit, at: int) -> None:
    """IPv6 has no checksum of its own header that would show it."""
    source, there = exit_.ends(1)
    mark = os.urandom(8)
    packet = ip(source, there, UDP, udp(source, there, 4002, OPEN, mark + bytes(2)))
    start = 6
    packet = packet[:start] + with_checksum(packet[start:], 0x77)
    frames = exit_.leaves(lambda: exit_.pod.send_unfinished(packet, start, at - start))
    assert [frame for frame in frames if mark in frame] == []


@FAMILIES
def test_checksums_where_they_belong(exit_: Exit, family: int) -> None:
    """The packet's own, and one of a packet that is carried in it: those leave, finished."""
    source, there = exit_.ends(family)
    head = 40 if family else 20
    for make, protocol, at in ((udp, UDP, 6), (tcp, TCP, 16)):
        mark = os.urandom(8)
        segment = make(source, there, 4003, OPEN, data=mark + bytes(40))
        for start in (0, len(segment) - 30):
            finish = partial(exit_.pod.send_unfinished, ip(source, there, protocol, segment), head + start, at)
            frames = exit_.leaves(finish)
            came = [frame for frame in frames if mark in frame]
            assert len(came) == 1
            place = 14 + head + start + at
            assert came[0][:place][14 + head :] == segment[: start + at]


def test_neighbour_discovery_that_goes_elsewhere(exit_: Exit) -> None:
    """What a link needs passes unjudged, but a router would forward it to any address."""
    source, there = exit_.ends(1)
    for kind in (133, 135, 136):
        for target in (there, IPv6Address("2001:db8:77::1")):
            mark = os.urandom(16)
            for own in (source, ip_address("fe80::77"), ip_address("::")):
                rest = bytes(4) + source.packed + b"\x01\x03" + bytes(6) + mark
                packet = ip(own, target, ICMPV6, icmpv6(own, target, kind, rest), hops=255)
                frames = exit_.leaves(partial(exit_.pod.send, packet))
                assert [frame for frame in frames if mark in frame] == [], (kind, own)


def test_neighbours_are_still_found(exit_: Exit) -> None:
    """Asked by group, and to look whether they are still there by their own address."""
    (source, _), hop = exit_.ends(1), IPv6Address("fe80::1")
    for target in (hop, IPv6Address("ff02::1:ff00:1")):
        exit_.pod.received()
        ask = icmpv6(source, target, 135, bytes(4) + hop.packed + b"\x01\x01" + exit_.pod.mac)
        exit_.pod.send(ip(source, target, ICMPV6, ask, hops=255))

        def answered() -> bool:
            return any(frame[54:55] == b"\x88" and hop.packed in frame[58:] for frame in exit_.pod.received())

        exit_.node.until("the node answers", answered)
