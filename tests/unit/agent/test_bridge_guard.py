"""Bridges of engines, guarded in a real kernel. With containers on them: tests/e2e/test_agent_containers.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
from lockgate.agent.force.bridge_guard import BridgeGuard, Guarded
from lockgate.agent.force.bridge_watch import BridgeWatch
from lockgate.agent.playground import Playground, Pod
from lockgate.redirect.datapath import Datapath, Held
from lockgate.redirect.errors import RoutingFailedError
from lockgate.redirect.kernel import netns
from lockgate.redirect.opening import Opening
from lockgate.store import ContainerNetwork

ONE = ContainerNetwork("one", "br-one", (ip_network("172.18.0.0/16"), ip_network("fd00:18::/64")))
OTHER = ContainerNetwork("other", "br-other", (ip_network("172.19.0.0/16"),))
NONE = frozenset[int]()


class Node:
    """A node with two bridges; `pod` hangs on the first one."""

    def __init__(self) -> None:
        self.ground = Playground(f"guard{os.getpid()}")
        self.pod = self.ground.pod("pod")
        self.datapath = netns.run_in(
            self.ground.node.path, lambda: Datapath.open(Opening(Path(f"/sys/fs/bpf/lg-guard-{os.getpid()}")))
        )
        for name in ("br-one", "br-other"):
            self.run("link", "add", name, "type", "bridge")
        self.hang(self.pod, "br-one")
        self.guard = BridgeGuard(self.datapath)

    def run(self, *command: str) -> None:
        self.ground.node.run(["ip", *command], check=True)

    def hang(self, pod: Pod, bridge: str) -> None:
        self.run("link", "set", pod.interface, "master", bridge)

    def sync(self, *networks: ContainerNetwork, known: frozenset[int] = NONE) -> Guarded:
        return netns.run_in(self.ground.node.path, lambda: self.guard.sync(networks, known))

    @property
    def held(self) -> Held:
        return netns.run_in(self.ground.node.path, self.datapath.held)

    def close(self) -> None:
        netns.run_in(self.ground.node.path, self.datapath.remove)
        self.ground.close()


@pytest.fixture(scope="module")
def made() -> Iterator[Node]:
    node = Node()
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(made: Node) -> Node:
    made.sync()
    assert made.held == Held(NONE, NONE)
    return made


def test_a_port_is_mute_before_anybody_is_known(node: Node) -> None:
    guarded = node.sync(ONE, OTHER)
    assert guarded == Guarded((((node.pod.interface), "br-one"),), (), others=True)
    assert node.held.pods == node.guard.ports == {node.pod.ifindex}
    assert len(node.held.bridges) == 2
    assert node.guard.closed == (*ONE.subnets, *OTHER.subnets)
    assert node.sync(ONE, OTHER, known=frozenset({node.pod.ifindex})) == Guarded()


def test_a_network_that_has_no_bridge_yet(node: Node) -> None:
    later = ContainerNetwork("later", "br-later", (ip_network("172.20.0.0/16"),))
    assert node.sync(later) == Guarded(others=True)
    assert node.guard.closed == later.subnets
    node.run("link", "add", "br-later", "type", "bridge")
    try:
        assert node.sync(later) == Guarded()
        assert len(node.held.bridges) == 1
    finally:
        node.run("link", "del", "br-later")
    assert node.sync(later) == Guarded()
    assert not node.held.bridges


def test_a_bridge_that_is_shared_with_others(node: Node) -> None:
    """Whole networks may be behind another port: none of them must be cut off."""
    node.sync(ONE, OTHER)
    node.run("tuntap", "add", "dev", "nic", "mode", "tap")
    try:
        node.run("link", "set", "nic", "master", "br-one")
        guarded = node.sync(ONE, OTHER)
        assert guarded.unknown == ()
        assert guarded.others
        (problem,) = guarded.problems
        assert problem.startswith("bridge br-one of a container engine has a port that is no container's (nic)")
        assert node.guard.closed == OTHER.subnets
        assert len(node.held.bridges) == 1
        assert not node.held.pods
    finally:
        node.run("link", "del", "nic")


def test_networks_that_are_guarded_no_more(node: Node) -> None:
    node.sync(ONE)
    assert node.sync(known=frozenset({node.pod.ifindex})) == Guarded(others=True)
    assert node.held.pods == {node.pod.ifindex}, "it is an endpoint's"
    node.sync(ONE)
    node.sync()
    assert node.held == Held(NONE, NONE)
    assert node.guard.closed == ()


async def test_what_is_watched() -> None:
    answers: list[Guarded | RoutingFailedError] = [
        RoutingFailedError("no rights"),
        Guarded((("veth1", "br-one"),), (), others=True),
        Guarded(),
    ]
    told: list[str] = []
    other = asyncio.Event()

    async def guard(networks: Sequence[ContainerNetwork]) -> Guarded:
        if networks == (ONE, OTHER):
            other.set()
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Guarded):
            return answer
        raise answer

    watch = BridgeWatch(guard, lambda: told.append("others"))
    watch.want((ONE,))
    await watch.look()
    assert watch.problems() == ("no rights",)
    await watch.look()
    assert told == ["others"]
    assert watch.problems() == (), "it has only just come"
    running = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(30):
            watch.want((ONE, OTHER))
            await other.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
