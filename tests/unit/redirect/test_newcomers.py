"""Ports of bridges at which no programs are, in a real kernel. With containers: tests/e2e/test_agent_containers.py."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Playground, Pod
from lockgate.redirect.errors import BpfUnsupportedError
from lockgate.redirect.kernel import asking_table, bpffs, netns
from lockgate.redirect.kernel.bridge_table import BRIDGE_TABLE
from lockgate.redirect.kernel.kept_programs import DEFAULT_CACHE_DIR
from lockgate.redirect.newcomers import Names, Newcomers, named_like
from lockgate.tests.ethernet import NOT_FORWARDED, Link, frames, sign

T = TypeVar("T")

DOCKERS = "br-0123456789ab"
LONG_ENOUGH = 0.2  # seconds, for what must not come


class Bridges:
    """A node with pods on bridges that are made as they are needed."""

    def __init__(self) -> None:
        self.ground = Playground(f"newcomers{os.getpid()}")
        self.pin_dir = Path(f"/sys/fs/bpf/lg-newcomers-{os.getpid()}")
        bpffs.ensure_folder(self.pin_dir / "maps")
        self.one, self.two, self.three = (self.ground.pod(name) for name in ("one", "two", "three"))
        self.newcomers = self.inside(lambda: Newcomers(self.pin_dir, DEFAULT_CACHE_DIR))

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def run(self, *command: str) -> None:
        self.ground.node.run(command, check=True)

    def bridge(self, name: str) -> int:
        """With the three pods as its ports."""
        self.run("ip", "link", "add", name, "up", "type", "bridge")
        for pod in (self.one, self.two, self.three):
            self.run("ip", "link", "set", pod.interface, "master", name)
        return self.inside(lambda: socket.if_nametoindex(name))

    def guard(self, bridges: dict[int, bool], names: Names = Names.NONE) -> None:
        self.inside(lambda: self.newcomers.guard(bridges, names))

    def reaches(self, sender: Pod, receiver: Pod) -> set[str]:
        """What of everything that one sends comes to the other."""
        here, there = Link(sender.path), Link(receiver.path)
        third = Link(self.three.path)
        try:
            here.send(every_kind(sender, receiver, here.mac, there.mac, third.mac))
            time.sleep(LONG_ENOUGH)
            return there.received()
        finally:
            for each in (here, there, third):
                each.close()

    def close(self) -> None:
        self.newcomers.close()
        self.inside(lambda: Newcomers.remove_pinned(self.pin_dir))
        bpffs.remove_folder(self.pin_dir)
        self.ground.close()


def every_kind(
    sender: Pod, receiver: Pod, mac: bytes = bytes(6), to: bytes = bytes(6), other: bytes = bytes(6)
) -> dict[str, bytes]:
    return frames(mac, to, (sender.ipv4, receiver.ipv4), (sender.ipv6, receiver.ipv6), other)


@pytest.fixture(scope="module")
def made() -> Iterator[Bridges]:
    bridges = Bridges()
    try:
        yield bridges
    finally:
        bridges.close()


@pytest.fixture
def bridges(made: Bridges) -> Iterator[Bridges]:
    before = made.inside(lambda: set(dict(socket.if_nameindex()).values()))
    yield made
    made.newcomers.police(frozenset())
    made.guard({})
    for name in made.inside(lambda: set(dict(socket.if_nameindex()).values())) - before:
        made.run("ip", "link", "del", name)


def test_everything_passes_a_bridge_that_is_nobodys_of_ours(bridges: Bridges) -> None:
    """What the others are measured by."""
    bridges.bridge("lab0")
    bridges.guard({}, Names.DOCKERS | Names.PODMANS)
    sent = every_kind(bridges.one, bridges.two)
    assert bridges.reaches(bridges.one, bridges.two) == set(sent) - NOT_FORWARDED


def test_nothing_passes_between_newcomers(bridges: Bridges) -> None:
    ifindex = bridges.bridge("lab0")
    bridges.guard({ifindex: True})
    assert bridges.reaches(bridges.one, bridges.two) == set()
    assert bridges.inside(bridges.newcomers.dropped)
    bridges.guard({})
    assert bridges.reaches(bridges.one, bridges.two)


def test_to_a_port_that_is_policed_and_from_it(bridges: Bridges) -> None:
    """The programs there judge what goes out; what comes in has to have their mark."""
    ifindex = bridges.bridge("lab0")
    bridges.guard({ifindex: True})
    bridges.newcomers.police({bridges.two.ifindex})
    assert bridges.reaches(bridges.one, bridges.two) == set()
    assert bridges.reaches(bridges.two, bridges.one) == set()
    node = Link(bridges.ground.node.path, "lab0")
    ends = [Link(pod.path) for pod in (bridges.one, bridges.two)]
    try:
        node.send({"": b"\xff" * 6 + node.mac + b"\x88\xb5" + sign("to everybody")})
        time.sleep(LONG_ENOUGH)
        assert [end.received() for end in ends] == [set(), {"to everybody"}]
    finally:
        for each in (node, *ends):
            each.close()


def test_nothing_goes_up_from_the_port_itself(bridges: Bridges) -> None:
    """A bridge leaves some addresses to whoever is at the port, past the bridge: the node would take the packet."""

    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", 9053))
        made.settimeout(1)
        return made

    ifindex = bridges.bridge("lab0")
    node, link = bridges.inside(listen), Link(bridges.one.path)
    try:
        four, six = (bridges.one.ipv4, NODE_IPV4), (bridges.one.ipv6, NODE_IPV6)
        up = {"up": frames(link.mac, link.mac, four, six, link.mac)["up from the port"]}
        link.send(up)
        assert node.recv(100) == sign("up from the port"), "so it is without a guard"
        bridges.guard({ifindex: True})
        link.send(up)
        with pytest.raises(TimeoutError):
            node.recv(100)
    finally:
        node.close()
        link.close()


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("docker0", Names.DOCKERS),
        (DOCKERS, Names.DOCKERS),
        ("podman12", Names.PODMANS),
        ("cni-podman0", Names.PODMANS),
        *((each, Names.PODS) for each in ("cni0", "cbr0", "kube-bridge")),
        *((other, Names.NONE) for other in ("docker00", "br-lan", "br-0123456789a", "br-0123456789ag")),
        *((other, Names.NONE) for other in ("podman", "podman0x", "lxdbr0", "cni00")),
    ],
)
def test_a_bridge_that_nobody_has_told_of_is_known_by_its_name(bridges: Bridges, name: str, names: Names) -> None:
    """By the kernel and by us."""
    assert named_like(name) is names
    ifindex = bridges.bridge(name)
    every = Names.DOCKERS | Names.PODMANS | Names.PODS
    for style in (*Names, every):
        bridges.guard({}, style)
        assert bool(bridges.reaches(bridges.one, bridges.two)) is not bool(style & names), style
        assert bridges.newcomers.by_name({ifindex: name}) == ({ifindex} if style & names else set())
    bridges.guard({ifindex: False}, every)
    assert bridges.reaches(bridges.one, bridges.two), "it is known not to be guarded"
    assert bridges.newcomers.by_name({ifindex: name}) == set()


def test_rules_that_somebody_took_away_are_made_anew(bridges: Bridges) -> None:
    ifindex = bridges.bridge("lab0")
    bridges.guard({ifindex: True})
    for spoiled in ("flush ruleset", "flush chain bridge lockgate input", "delete chain bridge lockgate postrouting"):
        bridges.run("nft", spoiled)
        assert bridges.inside(bridges.newcomers.dropped) is None
        bridges.guard({ifindex: True})
        assert bridges.inside(bridges.newcomers.dropped) is not None  # what pods ask their link by themselves counts
    assert bridges.reaches(bridges.one, bridges.two) == set()


def test_a_list_of_the_rules_that_is_loaded_drops_nothing(bridges: Bridges) -> None:
    """nft leaves out what it does not know."""
    bridges.bridge("lab0")
    listed = bridges.ground.node.run(["nft", "list", "ruleset"], check=True).stdout
    assert "table bridge lockgate" in listed
    bridges.run("nft", f"flush ruleset; {listed}")
    assert bridges.reaches(bridges.one, bridges.two)
    bridges.guard({})


def test_what_the_kernel_would_take_is_tried_without_a_trace(bridges: Bridges) -> None:
    bridges.run("nft", "flush ruleset")
    bridges.inside(BRIDGE_TABLE.check)
    assert bridges.ground.node.run(["nft", "list", "ruleset"], check=True).stdout == ""
    bridges.guard({})


def test_a_kernel_without_it_is_told(bridges: Bridges, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_table, "_MATCH", "nothing of that name")
    with pytest.raises(BpfUnsupportedError, match="CONFIG_NETFILTER_XT_MATCH_BPF"):
        bridges.inside(BRIDGE_TABLE.check)
    with pytest.raises(BpfUnsupportedError, match="CONFIG_NETFILTER_XT_MATCH_BPF"):
        bridges.inside(lambda: Newcomers(bridges.pin_dir, DEFAULT_CACHE_DIR))
    assert bridges.inside(bridges.newcomers.dropped) is not None, "what there was is still there"
