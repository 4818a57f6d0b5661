"""Which interfaces lead to another namespace, on a node of namespaces."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from lockgate.agent.playground import Playground, Pod
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect import layout
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.kernel import netns
from lockgate.redirect.kernel.maps import PinnedMap
from lockgate.redirect.opening import Opening

T = TypeVar("T")


class Node:
    def __init__(self) -> None:
        self.ground = Playground(f"farends{os.getpid()}")
        self.pods = [self.ground.pod("one"), self.ground.pod("two")]
        self.pin_dir = Path(f"/sys/fs/bpf/lg-far-ends-{os.getpid()}")
        self.datapath = self.open()

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def open(self, host_routing: bool = True) -> Datapath:
        return self.inside(lambda: Datapath.open(Opening(self.pin_dir, host_routing=host_routing)))

    def attach(self, pod: Pod) -> None:
        endpoint = Endpoint(Workload(pod.name, "default", ()), 70001, pod.ips, pod.ifindex, pod.interface)
        self.inside(lambda: self.datapath.attach(endpoint))

    def run(self, command: str) -> None:
        assert self.ground.node.run(["ip", *command.split()]).returncode == 0, command


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.inside(made.datapath.remove)
        made.ground.close()


def test_those_of_pods_as_they_come_and_go(node: Node) -> None:
    one, two = node.pods
    assert node.datapath.far_ends() == frozenset()
    for pod in node.pods:
        node.attach(pod)
    assert node.datapath.far_ends() == frozenset({one.ifindex, two.ifindex})
    node.inside(lambda: node.datapath.detach(one.ifindex))
    assert node.datapath.far_ends() == frozenset({two.ifindex})


def test_no_port_of_a_bridge_and_nothing_that_ends_at_the_node(node: Node) -> None:
    one, two = node.pods
    node.run("link add br0 type bridge")
    node.run(f"link set {one.interface} master br0")
    node.run("link add near type veth peer name near2")
    near = node.inside(lambda: socket.if_nametoindex("near"))
    node.inside(lambda: node.datapath.attach_interface(near, "near"))
    for pod in (one, two):
        node.attach(pod)
    assert node.datapath.far_ends() == frozenset({two.ifindex})


def test_a_later_agent_looks_again(node: Node) -> None:
    one, two = node.pods
    for pod in node.pods:
        node.attach(pod)
    node.datapath.close()
    known = PinnedMap(node.pin_dir / "maps", layout.FAR_ENDS)
    known.put({4711: 1})
    known.close()
    node.run("link add br0 type bridge")
    node.run(f"link set {one.interface} master br0")
    node.datapath = node.open()
    assert node.datapath.far_ends() == frozenset({two.ifindex})
    node.datapath.close()
    node.datapath = node.open(host_routing=False)
    assert node.datapath.far_ends() is None
