"""Which interfaces count as uplinks."""

from __future__ import annotations

import os
from collections.abc import Sequence

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
        (None, {"eth0"}, []),
        ((), set(), []),
        (("eth1",), {"eth1"}, []),
        (("eth0", "eth7"), {"eth0"}, ["uplink eth7 is no interface"]),
        (("lg2-pod",), set(), ["uplink lg2-pod is no interface"]),
        (("wg0",), set(), ["uplink wg0 has no Ethernet headers"]),
    ],
)
def test_the_choice(named: Sequence[str] | None, chosen: set[str], problems: list[str]) -> None:
    found = choose((POD, ETH, IDLE, TUNNEL), {POD.ifindex}, named)
    assert set(found.names.values()) == chosen
    assert len(found.problems) == len(problems)
    assert all(problem.startswith(start) for problem, start in zip(found.problems, problems, strict=True))


def test_a_real_nodes_interfaces() -> None:
    with Playground(f"uplink{os.getpid()}") as ground:
        pod = ground.pod("pod")
        before = {each.name for each in netns.run_in(ground.node.path, interfaces) if each.routed}
        ground.outside()
        found = {each.name: each for each in netns.run_in(ground.node.path, interfaces)}
        assert before == {pod.interface}
        assert found[UPLINK].routed
        assert found[UPLINK].ethernet
        assert "lo" not in found
        ground.node.run(["ip", "route", "flush", "dev", UPLINK], check=True)
        ground.node.run(["ip", "-6", "route", "flush", "dev", UPLINK], check=True)
        assert {each.name for each in netns.run_in(ground.node.path, interfaces) if each.routed} == {pod.interface}
