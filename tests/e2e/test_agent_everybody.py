"""Packets that are for everybody on a link, and so for the node's processes too; and what else the node is called."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from ipaddress import ip_address
from itertools import product

import pytest
from lockgate.agent.playground import UPLINK
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import PATIENCE, LiveNode, live_node
from lockgate.tests.e2e.wire import UDP, Wire, ip, udp

OPEN, SHUT = 7201, 7202
POLICIES = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "7201", protocol: UDP}]}]
  - fromEndpoints: [{matchLabels: {app: intruder}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out}
spec:
  endpointSelector: {matchLabels: {app: intruder}}
  egress:
  - toEntities: [world]
  - toEntities: [host]
    toPorts: [{ports: [{port: "7201", protocol: UDP}]}]
"""
EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: egress}
spec:
  nodeSelector: {}
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "7201", protocol: UDP}]}]
"""
PEER = "10.9.9.2"  # the other end of a point-to-point address
NOBODY = ip_address("0.0.0.0")


class Heard:
    """What UDP servers of the node have got, by port. One for each family: only those of IPv4 hear every group."""

    def __init__(self, node: LiveNode) -> None:
        self._sockets: dict[int, list[socket.socket]] = {OPEN: [], SHUT: []}
        for port, sockets in self._sockets.items():
            for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
                made = netns.run_in(node.node.path, lambda family=family: socket.socket(family, socket.SOCK_DGRAM))  # type: ignore[misc]
                if family == socket.AF_INET6:
                    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                made.bind((address, port))
                made.setblocking(False)
                sockets.append(made)

    def since(self, port: int) -> set[str]:
        found = set()
        for each in self._sockets[port]:
            with suppress(BlockingIOError):
                while True:
                    found.add(each.recv(65536).strip(b"-").decode())
        return found

    def hears(self, port: int, names: set[str]) -> set[str]:
        """Those of the names that it has got, or gets."""
        found: set[str] = set()
        deadline = time.monotonic() + PATIENCE
        while not names <= found and time.monotonic() < deadline:
            found |= self.since(port)
            time.sleep(0.01)
        return found

    def close(self) -> None:
        for each in (one for sockets in self._sockets.values() for one in sockets):
            each.close()


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        made.ground.outside()
        made.node.run(["ip", "address", "add", "10.9.9.1", "peer", PEER, "dev", "uplink"], check=True)
        made.node.run(["ip", "route", "add", "local", "10.9.8.7", "dev", "lo"], check=True)
        made.write("everybody", POLICIES)
        made.start_agent()
        made.until("the uplink is attached", lambda: made.status()["datapath"]["uplinks"] == 1)
        yield made


@pytest.fixture(scope="module")
def heard(node: LiveNode) -> Iterator[Heard]:
    with closing(Heard(node)) as made:
        yield made


def datagram(source: IPAddress, to: str, port: int, name: str) -> bytes:
    there = ip_address(to)
    return ip(source, there, UDP, udp(source, there, 4000, port, name.encode()))


def from_outside(wire: Wire, ips: tuple[IPAddress, IPAddress], port: int) -> dict[str, bytes]:
    """Frames by what they are."""
    four, six = ips

    def framed(packet: bytes, to: bytes = wire.gateway, tag: bytes = b"") -> bytes:
        kind = b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"
        return to + wire.mac + tag + kind + packet

    def plain(name: str, called: str, source: IPAddress | None = None, **more: bytes) -> tuple[str, bytes]:
        return name, framed(datagram(source or (six if ":" in called else four), called, port, name), **more)

    broadcast = b"\xff" * 6
    return dict(
        [
            plain("the node", "192.0.2.1"),
            plain("the node, IPv6", "2001:db8::1"),
            plain("everybody", "255.255.255.255", to=broadcast),
            plain("everybody, to one", "255.255.255.255"),
            plain("nobody's from nobody", "0.0.0.0", NOBODY, to=broadcast),
            plain("the link's broadcast", "192.0.2.255", to=broadcast),
            plain("all systems", "224.0.0.1", to=b"\x01\x00\x5e\x00\x00\x01"),
            plain("all nodes", "ff02::1", to=b"\x33\x33\x00\x00\x00\x01"),
            plain("all routers", "ff02::2", to=b"\x33\x33\x00\x00\x00\x02"),
            plain("subnet-router anycast", "2001:db8::"),
            plain("a point-to-point address", "10.9.9.1"),
            plain("a local route", "10.9.8.7"),
            plain("priority tag", "192.0.2.1", tag=b"\x81\x00\xe0\x00"),
            plain("priority tag, IPv6", "2001:db8::1", tag=b"\x81\x00\x00\x00"),
            plain("priority tag, all systems", "224.0.0.1", to=b"\x01\x00\x5e\x00\x00\x01", tag=b"\x81\x00\x00\x00"),
        ]
    )


def hidden(wire: Wire, ips: tuple[IPAddress, IPAddress], port: int) -> Mapping[str, list[bytes]]:
    """Datagrams whose port cannot be read."""
    four, six = ips
    group, nodes = ip_address("224.0.0.1"), ip_address("ff02::1")
    whole = udp(four, group, 4000, port, b"a datagram in two pieces".ljust(1000, b"-"))
    behind = udp(six, nodes, 4000, port, b"behind a header")
    here = wire.gateway + wire.mac
    return {
        "a datagram in two pieces": [
            here + b"\x08\x00" + ip(four, group, UDP, whole[:400], fragment=0x2000),
            here + b"\x08\x00" + ip(four, group, UDP, whole[400:], fragment=50),
        ],
        "behind two tags": [
            here + b"\x81\x00\x00\x00\x81\x00\x00\x00\x08\x00" + datagram(four, "192.0.2.1", port, "behind two tags")
        ],
        "behind a header": [here + b"\x86\xdd" + ip(six, nodes, 60, struct.pack("!BB6x", UDP, 0) + behind)],
    }


def test_from_beyond_an_uplink(node: LiveNode, heard: Heard) -> None:
    outside = node.ground.outside()
    with Wire(outside, node.node) as wire:
        allowed, shut = (from_outside(wire, outside.ips, port) for port in (OPEN, SHUT))
        for frame in (*shut.values(), *allowed.values()):
            wire.send_frame(frame)
        assert heard.hears(OPEN, {*allowed}) == {*allowed}
        assert heard.since(SHUT) == set()


def test_what_cannot_be_read_is_for_nobody(node: LiveNode, heard: Heard) -> None:
    outside = node.ground.outside()
    with Wire(outside, node.node) as wire:
        for frames in (hidden(wire, outside.ips, port) for port in (SHUT, OPEN)):
            for frame in (frame for pieces in frames.values() for frame in pieces):
                wire.send_frame(frame)
        last = from_outside(wire, outside.ips, OPEN)["the node"]
        wire.send_frame(last)
        assert heard.hears(OPEN, {"the node"}) == {"the node"}, "not even where the port is open"
        assert heard.since(SHUT) == set()


def test_from_a_pod_that_may_reach_the_world(node: LiveNode, heard: Heard) -> None:
    """The node is not the world, by whatever name."""
    pod = node.intruder
    names = ["255.255.255.255", "224.0.0.1", "192.0.2.255", "10.9.9.1", "10.9.8.7", "192.0.2.1"]
    names += ["ff02::1", "2001:db8::", "2001:db8::1"]
    with Wire(pod, node.node) as wire:
        for port in (SHUT, OPEN):
            for name in names:
                wire.send(datagram(pod.ips[":" in name], name, port, name))
        assert heard.hears(OPEN, {*names}) == {*names}
        assert heard.since(SHUT) == set()


def test_who_is_at_the_other_end_of_a_link_is_not_the_node(node: LiveNode) -> None:
    explained = node.lockgate("policy", "explain", "--from", "intruder", "--to", PEER, "--port", "80", "-o", "json")
    assert explained.data["verdict"] == "allow", "it is the world"
    for name in ("10.9.9.1", "224.0.0.251", "255.255.255.255", "192.0.2.255"):
        explained = node.lockgate("policy", "explain", "--from", "intruder", "--to", name, "--port", "80", "-o", "json")
        assert explained.data["verdict"] == "deny", name


def send_from(node: LiveNode, to: str, port: int) -> None:
    """A datagram of a process of the node, whose data say where it was to go."""

    def send() -> None:
        with socket.socket(socket.AF_INET6 if ":" in to else socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            if ip_address(to).is_multicast or to == "255.255.255.255":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, UPLINK.encode())
            with suppress(PermissionError):  # what is dropped at an uplink is told at once
                made.sendto(f"{to} {port}.".encode(), (to, port))

    netns.run_in(node.node.path, send)


def test_what_the_node_sends_to_everybody(node: LiveNode, heard: Heard) -> None:
    """It is the world's; what the node calls itself is not judged. `explain` says so too."""
    outside = node.ground.outside()
    to_link = ("192.0.2.255", "255.255.255.255", "224.0.0.1", "224.0.0.251", "ff02::1", "ff02::2", "192.0.2.0")
    to_itself = ("0.0.0.0", "::", "2001:db8::", "10.9.8.7", "192.0.2.1", "127.0.0.1")
    outside.run(["ip", "address", "add", "192.0.2.0", "dev", "eth0"], check=True)  # the zero address is one like others
    egress = node.write("egress", EGRESS)
    try:
        for to, port in product((*to_link, *to_itself), (OPEN, SHUT)):
            asked = f"policy explain --from reserved:host --to {to} --port {port}/UDP -o json"
            expected = "deny" if to in to_link and port == SHUT else "allow"
            node.until(
                f"{to} {port} is explained",
                lambda: node.lockgate(*asked.split()).data["verdict"] == expected,  # noqa: B023
            )
        heard.since(SHUT)
        with Wire(outside, node.node) as wire:
            for port, to in product((SHUT, OPEN), (*to_itself, *to_link)):
                send_from(node, to, port)
            frames: list[bytes] = []

            def arrived(port: int) -> set[str]:
                frames.extend(wire.received())
                return {to for to in (*to_itself, *to_link) if any(f"{to} {port}.".encode() in each for each in frames)}

            node.until("what is allowed has arrived", lambda: {*to_link} <= arrived(OPEN))
            assert arrived(OPEN) == {*to_link}
            assert arrived(SHUT) == set()
        assert {f"{to} {SHUT}." for to in to_itself} <= heard.since(SHUT)
    finally:
        egress.unlink()
        outside.run(["ip", "address", "del", "192.0.2.0", "dev", "eth0"], check=True)
        heard.since(OPEN)
