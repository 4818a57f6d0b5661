from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import TypeVar

import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Playground
from lockgate.policies.workload import Workload
from lockgate.redirect import device
from lockgate.redirect.device import Device, find_device, node_addresses
from lockgate.redirect.errors import EndpointUnreachableError, NamespaceGoneError
from lockgate.redirect.kernel import netns
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

T = TypeVar("T")

LOOK_WITH_FEW_DESCRIPTORS = """
import os, sys
from lockgate.policies.workload import Workload
from lockgate.redirect.device import find_device
from lockgate.redirect.errors import RedirectError
from lockgate.tests.scarcity import descriptors
by, place = sys.argv[1:]
workload = Workload("one", "default", (), **{by: int(place) if by == "pid" else place})
for more in range(12):
    try:
        with descriptors(os.getpid(), more):
            found = find_device(workload)
    except RedirectError as error:
        found = error
    print(type(found).__name__)
"""


@pytest.fixture(scope="module")
def ground() -> Iterator[Playground]:
    with Playground(f"device{os.getpid()}") as made:
        made.pod("one")
        made.pod("two")
        yield made


def inside(ground: Playground, function: Callable[[], T]) -> T:
    return netns.run_in(ground.node.path, function)


def test_by_namespace_process_and_interface(ground: Playground) -> None:
    pod = ground.pods[1]
    sleeper = pod.popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=-1)
    assert sleeper.stdout is not None
    sleeper.stdout.readline()
    expected = Device(pod.ifindex, pod.interface, pod.ips)
    for workload in (
        Workload("two", "default", (), netns=pod.netns),
        Workload("two", "default", (), pid=sleeper.pid),
        Workload("two", "default", (), interface=pod.interface),
    ):
        assert inside(ground, lambda workload=workload: find_device(workload)) == expected  # type: ignore[misc]


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload("a", "default", (), netns="lg-nowhere"), "lg-nowhere is gone"),
        (Workload("a", "default", (), pid=2**22 - 1), "is gone"),
        (Workload("a", "default", (), interface="lg-nowhere"), "interface lg-nowhere does not exist"),
    ],
)
def test_what_is_gone_is_named(ground: Playground, workload: Workload, words: str) -> None:
    with pytest.raises(NamespaceGoneError, match=words):
        inside(ground, lambda: find_device(workload))


def test_what_cannot_be_policed_is_named(ground: Playground) -> None:
    with pytest.raises(EndpointUnreachableError, match="shares the node's own network"):
        inside(ground, lambda: find_device(Workload("a", "default", (), netns=ground.node.netns)))
    with pytest.raises(EndpointUnreachableError, match="is not a veth"):
        inside(ground, lambda: find_device(Workload("a", "default", (), interface="lo")))
    with pytest.raises(EndpointUnreachableError, match="names no netns, pid, interface or cgroup"):
        find_device(Workload("a", "default", ()))
    with pytest.raises(EndpointUnreachableError, match="does not end in this node's"):
        find_device(Workload("a", "default", (), netns=ground.pods[0].netns))  # from the machine's own namespace


def test_of_two_veths_the_one_with_the_address(ground: Playground) -> None:
    pod = ground.pod("two-legs")
    leg = ["ip", "link", "add", "leg", "type", "veth", "peer", "name", "eth1", "netns", pod.netns]
    for command in (leg, ["ip", "link", "set", "leg", "up"]):
        assert ground.node.run(command).returncode == 0
    for command in (["ip", "addr", "add", "10.9.0.2/24", "dev", "eth1"], ["ip", "link", "set", "eth1", "up"]):
        assert pod.run(command).returncode == 0
    second = ip_address("10.9.0.2")
    for ips, interface in (((second,), "leg"), ((pod.ipv4,), pod.interface), ((), pod.interface)):
        workload = Workload("two-legs", "default", (), netns=pod.netns, ips=ips)
        assert inside(ground, lambda workload=workload: find_device(workload)).interface == interface  # type: ignore[misc]


def test_a_namespace_that_goes_while_it_is_looked_at(ground: Playground, monkeypatch: pytest.MonkeyPatch) -> None:
    pod = ground.pod("goes")
    look_around = device._look_around

    def look_and_go() -> object:
        seen = look_around()
        ground.remove(pod)
        return seen

    monkeypatch.setattr(device, "_look_around", look_and_go)
    with pytest.raises(NamespaceGoneError, match="it cannot be looked at"):
        inside(ground, lambda: find_device(Workload("goes", "default", (), netns=pod.netns)))


@pytest.mark.parametrize("by", ["netns", "pid", "interface"])
def test_who_cannot_be_looked_at_is_not_gone(ground: Playground, by: str) -> None:
    pod = ground.pods[0]
    place = {"netns": pod.netns, "pid": pod.popen(["sleep", "60"]).pid, "interface": pod.interface}
    ended = ground.node.run([sys.executable, "-P", "-c", LOOK_WITH_FEW_DESCRIPTORS, by, str(place[by])])
    *without, last = ended.stdout.split()
    assert last == "Device", ended.stderr
    assert set(without) <= {"NotSeenError", "Device"}
    assert without[0] == "NotSeenError"


def test_a_list_that_changes_while_it_is_read_is_read_again() -> None:
    """The kernel says so by an error, and nothing but a storm of changes brings one about."""
    disturbances = [NetlinkDumpInterrupted(), NetlinkDumpInterrupted()]

    def look() -> str:
        if disturbances:
            raise disturbances.pop()
        return "seen"

    assert device.undisturbed(look) == "seen"


def test_a_namespace_without_veth(ground: Playground) -> None:
    lonely = Playground(f"lonely{os.getpid()}")
    try:
        with pytest.raises(EndpointUnreachableError, match="has no veth"):
            inside(ground, lambda: find_device(Workload("a", "default", (), netns=lonely.node.netns)))
    finally:
        lonely.close()


def test_the_nodes_addresses(ground: Playground) -> None:
    found = inside(ground, node_addresses).ips
    assert {NODE_IPV4, NODE_IPV6, ip_address("127.0.0.1"), ip_address("169.254.1.1")} <= set(found)
    assert len(set(found)) == len(found)


def test_what_the_node_takes_up_besides() -> None:
    with Playground(f"addresses{os.getpid()}") as ground:
        ground.outside()
        for command in (
            "address add 10.9.9.1 peer 10.9.9.2 dev uplink",
            "address add fd00:9::1 peer fd00:9::2 dev uplink",
            "route add local 10.9.8.7 dev lo",
        ):
            assert ground.node.run(["ip", *command.split()]).returncode == 0
        own = inside(ground, node_addresses)
    found = {str(ip) for ip in own.ips}
    assert ip_address("192.0.2.255") in own.broadcast
    assert own.broadcast < {*own.ips} and all(str(ip).endswith(".255") for ip in own.broadcast)
    assert {"10.9.9.1", "fd00:9::1", "10.9.8.7", "192.0.2.255", "2001:db8::"} <= found
    assert not {"10.9.9.2", "fd00:9::2", "127.255.255.255", "ff00::"} & found, "the other end is not this node"


def test_a_pod_with_a_point_to_point_address(ground: Playground) -> None:
    pod = ground.pod("linked")
    assert pod.run(["ip", "address", "add", "10.9.7.1", "peer", "10.9.7.2", "dev", "eth0"]).returncode == 0
    found = inside(ground, lambda: find_device(Workload("linked", "default", (), netns=pod.netns)))
    assert set(found.ips) == {*pod.ips, ip_address("10.9.7.1")}
