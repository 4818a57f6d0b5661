"""Which interfaces count as uplinks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_network

import pytest
from lockgate.agent.playground import UPLINK, Playground
from lockgate.redirect.kernel import netns
from lockgate.redirect.uplink import Interface, choose, interfaces

POD, ETH, IDLE, TUNNEL = (
    Interface(5, "lg2-pod"),
    Interface(2, "eth0"),
    Interface(3, "eth1", routed=False),
    Interface(4, "wg0", ethernet=False),
)


@pytest.mark.parametrize(
    ("named", "chosen", "problems"),
    [
        (None, {"eth0", "eth1", "wg0"}, []),
        ((), set(), []),
        (("eth1",), {"eth1"}, []),
        (("eth0", "eth7"), {"eth0"}, ["uplink eth7 is no interface"]),
        (("lg2-pod",), set(), ["uplink lg2-pod is no interface"]),
        (("wg0",), {"wg0"}, []),
    ],
)
def test_the_choice(named: Sequence[str] | None, chosen: set[str], problems: list[str]) -> None:
    found = choose((POD, ETH, IDLE, TUNNEL), {POD.ifindex}, named)
    assert set(found.names.values()) == chosen
    assert len(found.problems) == len(problems)
    assert all(problem.startswith(start) for problem, start in zip(found.problems, problems, strict=True))


BR, BOND, VRF = Interface(10, "br0", kind="bridge"), Interface(11, "bond0", kind="bond"), Interface(12, "v", kind="vrf")


@pytest.mark.parametrize(
    ("interface", "uplink"),
    [
        (Interface(7, "eth1", routed=False), True),
        (Interface(7, "lan0", kind="veth", routed=False), True),
        (Interface(7, "tun0", ethernet=False, kind="tun", routed=False), True),
        (Interface(7, "eth1", routed=False, master=10), False),
        (Interface(7, "eth1", routed=False, master=11), False),
        (Interface(7, "eth1", routed=False, master=12), True),
        (Interface(7, "eth1", master=10), True),
        (Interface(7, "macvtap0", kind="macvtap", routed=False), False),
        (BR, True),
        (BOND, True),
        (VRF, False),
    ],
    ids=lambda value: f"{value.name}-{value.master}" if isinstance(value, Interface) else "",
)
def test_every_way_in_counts(interface: Interface, uplink: bool) -> None:
    """With a route or without: the kernel takes up what is for the node by any. Bridges and bonds have up what comes in
    by their parts. A VRF's parts have it up themselves, and what comes out of the VRF is from the node itself."""
    chosen = choose([interface, BR, BOND, VRF], frozenset(), None).names
    assert (interface.ifindex in chosen) is uplink


PODS = (ip_network("10.244.0.0/16"),)


@pytest.mark.parametrize(
    ("interface", "uplink"),
    [
        (Interface(7, "cali1", kind="veth", routes=(ip_network("10.244.1.7/32"),)), False),
        (Interface(7, "cali2", kind="veth", routed=False), False),
        (Interface(7, "eth0", kind="veth", routes=(ip_network("0.0.0.0/0"), ip_network("10.244.2.0/24"))), True),
        (Interface(7, "flannel.1", kind="vxlan", routes=(ip_network("10.244.2.0/24"),)), True),
        (Interface(7, "eth0", routes=(ip_network("10.244.0.0/16"),)), True),
    ],
)
def test_pods_interfaces_are_none(interface: Interface, uplink: bool) -> None:
    """Known or not. On a node that is a container itself an uplink is a veth too."""
    assert bool(choose([interface], frozenset(), None, PODS).names) is uplink
    assert choose([interface], frozenset(), (interface.name,), PODS).names, "somebody has said so"
    assert choose([interface], frozenset(), None).names


def test_a_real_nodes_interfaces() -> None:
    with Playground(f"uplink{os.getpid()}") as ground:
        pod = ground.pod("pod")
        before = {each.name for each in netns.run_in(ground.node.path, interfaces) if each.routed}
        ground.outside()
        found = {each.name: each for each in netns.run_in(ground.node.path, interfaces)}
        assert before == {pod.interface}
        assert found[UPLINK].routed
        assert found[UPLINK].ethernet
        assert (found[UPLINK].kind, found[UPLINK].master) == ("veth", 0)
        assert ip_network("0.0.0.0/0") in found[UPLINK].routes
        assert set(found[pod.interface].routes) == {ip_network(pod.ipv4), ip_network(pod.ipv6)}
        assert "lo" not in found
        ground.node.run(["ip", "route", "add", "10.9.0.0/16", "dev", pod.interface, "table", "300"], check=True)
        found = {each.name: each for each in netns.run_in(ground.node.path, interfaces)}
        assert ip_network("10.9.0.0/16") in found[pod.interface].routes, "of any table"
        ground.node.run(["ip", "route", "flush", "dev", UPLINK], check=True)
        ground.node.run(["ip", "-6", "route", "flush", "dev", UPLINK], check=True)
        assert {each.name for each in netns.run_in(ground.node.path, interfaces) if each.routed} == {pod.interface}
