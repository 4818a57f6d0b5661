"""Pods at which no programs are, in a real kernel. With an agent: tests/e2e/test_agent_unseen_pods.py."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Namespace, Playground, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.errors import BpfUnsupportedError
from lockgate.redirect.kernel import asking_table, bpffs, netns
from lockgate.redirect.kernel.kept_programs import DEFAULT_CACHE_DIR
from lockgate.redirect.kernel.unseen_table import UNSEEN_TABLE
from lockgate.redirect.unseen import OF_PLUGINS, PodName, Unseen, learned
from lockgate.tests.e2e.wire import UDP, ip, udp

T = TypeVar("T")

PODS = (ip_network("10.200.0.0/16"), ip_network("fd00:200::/64"))
LINK = ip_address("fe80::1")  # of the node, at each of its interfaces
ELSEWHERE = ip_address("203.0.113.7")
NOBODY = frozenset[int]()
LONG_ENOUGH = 0.1  # seconds, for what must not come
PORT = 9053


class Node:
    """With two pods on routed veths, and the world behind an uplink."""

    def __init__(self) -> None:
        self.ground = Playground(f"unseen{os.getpid()}")
        self.pin_dir = Path(f"/sys/fs/bpf/lg-unseen-{os.getpid()}")
        bpffs.ensure_folder(self.pin_dir / "maps")
        self.one, self.two = self.ground.pod("one"), self.ground.pod("two")
        self.outside = self.ground.outside()
        self.uplink = self.number("uplink")
        for pod in (self.one, self.two):
            while "tentative" in pod.run(["ip", "addr", "show", "dev", "eth0"], check=True).stdout:
                time.sleep(0.05)
        self.unseen = self.inside(lambda: Unseen(self.pin_dir, DEFAULT_CACHE_DIR))

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def number(self, interface: str) -> int:
        return self.inside(lambda: socket.if_nametoindex(interface))

    def run(self, *command: str) -> None:
        self.ground.node.run(command, check=True)

    def guard(self, *seen: int, names: Collection[PodName] = (), prefixes: Collection[object] = PODS) -> None:
        self.inside(lambda: self.unseen.guard([ip_network(str(each)) for each in prefixes], names, frozenset(seen)))

    def reaches(
        self, sender: Namespace, receiver: Namespace, address: IPAddress, source: IPAddress | None = None
    ) -> bool:
        """Whether a datagram does; from another source than its own if there is one."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        scope = (
            0,
            netns.run_in(sender.path, lambda: {name: each for each, name in socket.if_nameindex()}.get("eth0", 0)),
        )
        where = (str(address), PORT, *(scope if address == LINK else ()))

        def listen() -> socket.socket:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", PORT))
            made.settimeout(LONG_ENOUGH)
            return made

        def send() -> None:
            if source is None:
                with socket.socket(family, socket.SOCK_DGRAM) as made:
                    made.sendto(b"datagram", where)
                return
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(ip(source, address, UDP, udp(source, address, 4000, PORT, b"datagram")), where)

        with closing(netns.run_in(receiver.path, listen)) as listening:
            with suppress(PermissionError):  # what the node itself sends is refused at once
                netns.run_in(sender.path, send)
            try:
                return listening.recv(100) == b"datagram"
            except TimeoutError:
                return False

    def meet(self) -> None:
        """Waits until the links work again: who could not be asked for a neighbour tries again after a second."""
        self.guard(prefixes=())
        ways: list[tuple[Namespace, Namespace, IPAddress]] = [
            (self.one, self.ground.node, LINK),
            (self.two, self.ground.node, LINK),
        ]
        ways += [(self.ground.node, pod, ip) for pod in (self.one, self.two) for ip in pod.ips]
        for sender, receiver, address in ways:
            while not self.reaches(sender, receiver, address):
                time.sleep(0.05)

    def everywhere(self, pod: Pod) -> dict[str, bool]:
        """Who reaches whom, of the pod and everybody else."""
        node, other = self.ground.node, self.two if pod is self.one else self.one
        return {
            "to the node": self.reaches(pod, node, NODE_IPV4) or self.reaches(pod, node, NODE_IPV6),
            "from the node": any(self.reaches(node, pod, ip) for ip in pod.ips),
            "outside": any(self.reaches(pod, self.outside, ip) for ip in self.outside.ips),
            "from outside": any(self.reaches(self.outside, pod, ip) for ip in pod.ips),
            "to a pod": any(self.reaches(pod, other, ip) for ip in other.ips),
            "from a pod": any(self.reaches(other, pod, ip) for ip in pod.ips),
        }

    def close(self) -> None:
        self.unseen.close()
        self.inside(lambda: Unseen.remove_pinned(self.pin_dir))
        bpffs.remove_folder(self.pin_dir)
        self.ground.close()


@pytest.fixture(scope="module")
def made() -> Iterator[Node]:
    node = Node()
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(made: Node) -> Iterator[Node]:
    made.meet()
    yield made
    made.guard(prefixes=())


def test_everybody_reaches_everybody(node: Node) -> None:
    """What the others are measured by."""
    node.guard(prefixes=())
    assert set(node.everywhere(node.one).values()) == {True}


def test_a_pod_without_programs_is_cut_off(node: Node) -> None:
    """By its address, and by nothing else."""
    before = node.inside(node.unseen.dropped)
    node.guard(node.uplink)
    assert set(node.everywhere(node.one).values()) == {False}
    assert (node.inside(node.unseen.dropped) or 0) > (before or 0)
    assert node.reaches(node.outside, node.ground.node, ip_address("192.0.2.1")), "others do not suffer"
    node.guard(node.uplink, prefixes=["10.77.0.0/16"])
    assert set(node.everywhere(node.one).values()) == {True}


def test_one_that_has_programs_is_not(node: Node) -> None:
    node.guard(node.uplink)
    node.inside(lambda: node.unseen.see(node.one.ifindex))
    reached = node.everywhere(node.one)
    assert {name for name, passes in reached.items() if not passes} == {"to a pod", "from a pod"}
    node.inside(lambda: node.unseen.lose(node.one.ifindex))
    assert set(node.everywhere(node.one).values()) == {False}


def test_pods_elsewhere_have_addresses_of_a_wide_prefix(node: Node) -> None:
    """They come by an uplink, which may be a veth too."""
    elsewhere = IPv4Address("10.200.99.9")
    node.run("ip", "route", "add", f"{elsewhere}/32", "via", "192.0.2.9")
    node.outside.run(["ip", "addr", "add", f"{elsewhere}/32", "dev", "lo"], check=True)
    try:
        node.guard(node.uplink, node.one.ifindex)
        assert node.reaches(node.one, node.outside, elsewhere)
        assert node.reaches(node.outside, node.one, node.one.ipv4, source=elsewhere)
        node.guard(node.one.ifindex)
        assert not node.reaches(node.one, node.outside, elsewhere), "nobody said that this is an uplink"
    finally:
        node.run("ip", "route", "del", f"{elsewhere}/32")
        node.outside.run(["ip", "addr", "del", f"{elsewhere}/32", "dev", "lo"], check=True)


def test_by_what_an_interface_is_called(node: Node) -> None:
    """Whatever comes by it, from whatever source, also to the node's address on that very link."""

    def passes() -> set[bool]:
        return {
            node.reaches(node.two, node.one, node.one.ipv4, source=ELSEWHERE),
            node.reaches(node.two, node.ground.node, LINK),
            node.reaches(node.ground.node, node.two, node.two.ipv4),
        }

    node.guard(node.one.ifindex, prefixes=())
    assert passes() == {True}
    node.guard(node.one.ifindex, names=[PodName("lg")], prefixes=())
    assert passes() == {False}
    assert node.reaches(node.one, node.ground.node, LINK), "it has programs"
    node.guard(node.one.ifindex, prefixes=())
    assert passes() == {True}, "what somebody has set is not learned"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("cali0123456789a", "cali"),
        ("veth0123abcd", "veth"),
        ("vethdeadbe", "veth"),
        ("lxc12ab34cd56ef", "lx"),
        ("gke0a1b2c3d4e5", "gk"),
        ("eni0a1b2c3d4e5", "eni"),
        *((other, None) for other in ("veth0", "vethA1b2C3", "cali", "cali01234g6789", "0123456789ab", "calix0123456")),
    ],
)
def test_names_with_numbers(node: Node, name: str, stem: str | None) -> None:
    """By the kernel and by us: what one pod's interface says of the others."""
    of_plugins = [PodName(each, numbered=True) for each in ("cali", "veth", "lx", "eni", "gk")]
    found = learned(name)
    assert (found.stem if found is not None else None) in (stem, "calix")
    assert any(each.covers(name) for each in of_plugins) is bool(stem)
    assert any(each.covers(name) for each in OF_PLUGINS) is bool(stem)
    node.run("ip", "link", "set", node.two.interface, "name", name)
    try:
        node.guard(node.one.ifindex, names=of_plugins, prefixes=())
        assert node.reaches(node.two, node.ground.node, LINK) is not bool(stem)
    finally:
        node.run("ip", "link", "set", name, "name", node.two.interface)
    assert node.inside(node.unseen.names) >= set(of_plugins), "what was learned stays"


def test_on_a_bridge_that_nobody_knows(node: Node) -> None:
    """As a plugin makes it with the first pod of a node."""
    pod, gateway = node.two, ip_address("10.200.77.1")
    node.run("ip", "link", "add", "lab0", "up", "type", "bridge")
    try:
        node.run("ip", "link", "set", pod.interface, "master", "lab0")
        node.run("ip", "addr", "add", f"{gateway}/24", "dev", "lab0")
        pod.run(["ip", "addr", "add", "10.200.77.2/24", "dev", "eth0"], check=True)
        there = ip_address("10.200.77.2")
        assert node.reaches(pod, node.ground.node, gateway) and node.reaches(node.ground.node, pod, there)
        node.guard(node.uplink, node.one.ifindex)
        assert not node.reaches(pod, node.ground.node, gateway)
        assert not node.reaches(node.ground.node, pod, there)
        assert not node.reaches(node.one, pod, there)
        node.guard(node.uplink, node.one.ifindex, node.number("lab0"))
        assert node.reaches(pod, node.ground.node, gateway) and node.reaches(node.ground.node, pod, there)
    finally:
        node.run("ip", "link", "del", "lab0")
        pod.run(["ip", "addr", "del", "10.200.77.2/24", "dev", "eth0"], check=True)


def test_rules_that_somebody_took_away_are_made_anew(node: Node) -> None:
    node.guard()
    for spoiled in ("flush ruleset", "flush chain inet lockgate-pods postrouting"):
        node.run("nft", spoiled)
        assert node.inside(node.unseen.dropped) is None
        node.guard()
        assert node.inside(node.unseen.dropped) is not None
    assert not node.reaches(node.one, node.ground.node, NODE_IPV4)


def test_a_kernel_without_it_is_told(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_table, "_MATCH", "nothing of that name")
    with pytest.raises(BpfUnsupportedError, match="CONFIG_NETFILTER_XT_MATCH_BPF"):
        node.inside(UNSEEN_TABLE.check)
    assert node.inside(node.unseen.dropped) is not None, "what there was is still there"


def test_nothing_is_dropped_of_those_that_are_known(node: Node) -> None:
    node.guard(node.uplink, node.one.ifindex, node.two.ifindex)
    before = node.inside(node.unseen.dropped)
    assert all(node.everywhere(node.one).values())
    assert node.inside(node.unseen.dropped) == before
