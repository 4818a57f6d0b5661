"""Bridges of engines, guarded in a real kernel. With containers on them: tests/e2e/test_agent_containers.py."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import pytest
from lockgate.agent.force import bridge_guard
from lockgate.agent.force.bridge_guard import BridgeGuard, Guarded
from lockgate.agent.force.bridge_watch import BridgeWatch
from lockgate.agent.playground import Playground, Pod
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.errors import RoutingFailedError
from lockgate.redirect.kernel import asking_table, netns
from lockgate.redirect.opening import Opening
from lockgate.redirect.program_links import Held
from lockgate.store import ContainerNetwork, PodNetwork
from lockgate.tests.ethernet import Link, sign

ONE = ContainerNetwork("one", "br-one", (ip_network("172.18.0.0/16"), ip_network("fd00:18::/64")))
OTHER = ContainerNetwork("other", "br-other", (ip_network("172.19.0.0/16"),))
NONE = frozenset[int]()
LONG_ENOUGH = 0.2  # seconds, for what must not come


DOCKERS = ContainerNetwork("bridge", "docker0", (ip_network("172.17.0.0/16"),))


class Node:
    """A node with two bridges; `pod` hangs on the first one."""

    def __init__(self) -> None:
        self.ground = Playground(f"guard{os.getpid()}")
        self.pod = self.ground.pod("pod")
        self.datapath, self.guard = netns.run_in(self.ground.node.path, self.begun)
        for name in ("br-one", "br-other"):
            self.run("link", "add", name, "type", "bridge")
        self.hang(self.pod, "br-one")

    def run(self, *command: str) -> None:
        self.ground.node.run(["ip", *command], check=True)

    def hang(self, pod: Pod, bridge: str) -> None:
        self.run("link", "set", pod.interface, "master", bridge)

    def sync(self, *networks: ContainerNetwork, known: frozenset[int] = NONE) -> Guarded:
        return netns.run_in(self.ground.node.path, lambda: self.guard.sync(networks, known))

    def passes(self, sender: Pod, receiver: Pod) -> bool:
        """Whether a frame does."""
        here, there = Link(sender.path), Link(receiver.path)
        try:
            here.send({"": b"\xff" * 6 + here.mac + b"\x88\xb5" + sign("passes")})
            time.sleep(LONG_ENOUGH)
            return there.received() == {"passes"}
        finally:
            here.close()
            there.close()

    def dies(self) -> None:
        """Another agent's guard takes over what there is."""
        netns.run_in(self.ground.node.path, self.datapath.close)
        self.datapath, self.guard = netns.run_in(self.ground.node.path, self.begun)

    def tables(self) -> str:
        """Of nftables."""
        return self.ground.node.run(["nft", "list", "tables"], check=True).stdout

    def begun(self) -> tuple[Datapath, BridgeGuard]:
        datapath = Datapath.open(Opening(Path(f"/sys/fs/bpf/lg-guard-{os.getpid()}")))
        return datapath, BridgeGuard(datapath)

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


def test_who_comes_while_no_agent_runs(node: Node) -> None:
    """The kernel keeps at it, and the next agent leaves no moment."""
    node.run("link", "set", "br-one", "up")
    node.sync(ONE)
    one, two = node.ground.pod("one"), node.ground.pod("two")
    try:
        for pod in (one, two):
            node.hang(pod, "br-one")
        assert not node.passes(one, two), "the agent has not looked yet"
        node.dies()
        assert not node.passes(one, two)
        assert set(dict(node.sync(ONE).unknown)) == {pod.interface for pod in (node.pod, one, two)}
        assert not node.passes(one, two), "its programs hold it now"
        assert {one.ifindex, two.ifindex} <= node.held.pods
        node.sync()
        assert node.passes(one, two), "nothing is guarded any more"
    finally:
        for pod in (one, two):
            node.ground.remove(pod)


def test_a_bridge_that_is_made_while_no_agent_runs(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is guarded if it is called like those of the engine; the next agent lets be what no engine tells of."""
    later = ContainerNetwork("later", "br-0123456789ab", (ip_network("172.20.0.0/16"),))
    node.sync(DOCKERS)
    node.dies()
    pods = [node.ground.pod(name) for name in ("one", "two", "three", "four", "five", "six")]
    names = (later.bridge, "br-ba9876543210", "lab0")
    try:
        for number, name in enumerate(names):
            node.run("link", "add", name, "up", "type", "bridge")
            for pod in pods[2 * number : 2 * number + 2]:
                node.hang(pod, name)
        told, untold, others = pods[:2], pods[2:4], pods[4:]
        assert [node.passes(*pair) for pair in (told, untold, others)] == [False, False, True]
        guarded = node.sync(DOCKERS, later)
        assert {bridge for _, bridge in guarded.unknown} == set(names[:2])
        assert [node.passes(*pair) for pair in (told, untold, others)] == [False, False, True]
        monkeypatch.setattr(bridge_guard, "UNTOLD_SECONDS", 0.0)
        assert {bridge for _, bridge in node.sync(DOCKERS, later).unknown} == {later.bridge}
        assert [node.passes(*pair) for pair in (told, untold, others)] == [False, True, True]
        monkeypatch.undo()
        node.dies()
        node.sync(DOCKERS, later)
        assert node.passes(*untold), "the next agent does not ask again"
    finally:
        for pod in pods:
            node.ground.remove(pod)
        for name in names:
            node.run("link", "del", name)


def test_what_is_there_when_the_first_agent_comes_is_not_cut_off(node: Node) -> None:
    node.run("link", "add", "br-ba9876543210", "up", "type", "bridge")
    one, two = node.ground.pod("one"), node.ground.pod("two")
    try:
        for pod in (one, two):
            node.hang(pod, "br-ba9876543210")
        node.sync(DOCKERS)
        assert node.passes(one, two)
    finally:
        for pod in (one, two):
            node.ground.remove(pod)
        node.run("link", "del", "br-ba9876543210")


def test_a_kernel_that_cannot_do_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent guards what it can, and tells."""
    node.run("link", "set", "br-one", "up")
    monkeypatch.setattr(asking_table, "_MATCH", "nothing of that name")
    (note,) = node.sync(ONE).notes
    assert note.startswith(
        "of containers and pods that start while no agent runs, those on one bridge reach each other"
    )
    assert "CONFIG_NETFILTER_XT_MATCH_BPF" in note
    assert node.held.pods == {node.pod.ifindex}
    assert (node.sync(ONE).problems, node.sync(ONE).notes) == ((), (note,))
    assert node.sync().notes == ()
    node.dies()


def test_all_of_it_is_taken_away(node: Node) -> None:
    """When nothing is guarded any more, and when an agent's traces are."""
    node.sync(ONE)
    assert node.tables() == "table bridge lockgate\ntable inet lockgate\n"
    node.sync()
    assert node.tables() == ""
    node.sync(ONE)
    netns.run_in(node.ground.node.path, node.datapath.remove)
    assert node.tables() == ""
    node.datapath, node.guard = netns.run_in(node.ground.node.path, node.begun)


async def test_what_is_watched() -> None:
    answers: list[Guarded | RoutingFailedError] = [
        RoutingFailedError("no rights"),
        Guarded((("veth1", "br-one"),), (), others=True),
        Guarded(),
    ]
    told: list[str] = []
    other = asyncio.Event()

    async def guard(networks: Sequence[ContainerNetwork], _: PodNetwork | None) -> Guarded:
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
