from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

import pytest
from lockgate.agent.playground import Playground
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect import layout
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.errors import EndpointUnreachableError, MapFullError, PinConflictError
from lockgate.redirect.kernel import netns
from lockgate.redirect.kernel.maps import PinnedMap, open_map
from lockgate.redirect.opening import Opening
from lockgate.redirect.plan import DatapathPlan
from lockgate.redirect.planner import plan
from lockgate.tests.scarcity import pin_small

T = TypeVar("T")

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
IPCACHE = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10}


class Node:
    def __init__(self) -> None:
        self.ground = Playground(f"unitdatapath{os.getpid()}")
        self.pod = self.ground.pod("pod")
        self.pin_dir = Path(f"/sys/fs/bpf/lg-unit-datapath-{os.getpid()}")

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def open(self) -> Datapath:
        return self.inside(lambda: Datapath.open(Opening(self.pin_dir)))

    def endpoint(self) -> Endpoint:
        workload = Workload("pod", "default", ())
        return Endpoint(workload, 70001, self.pod.ips, self.pod.ifindex, self.pod.interface)

    def plan(self, *ports: int) -> DatapathPlan:
        rule = ResolvedRule(
            ORIGIN, False, frozenset({9, 70002}), tuple(PortSpan(Protocol.TCP, port, port) for port in ports)
        )
        policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule,)))
        return plan([(self.endpoint(), policy)], IPCACHE)

    def held(self) -> DatapathPlan:
        """What the kernel holds, read by other means than the Datapath under test."""
        maps = [PinnedMap(self.pin_dir / "maps", codec) for codec in (layout.POLICY, layout.ENDPOINTS, layout.IPCACHE)]
        try:
            return DatapathPlan(*(each.read() for each in maps))
        finally:
            for each in maps:
                each.close()


@pytest.fixture(scope="module")
def module_node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.inside(lambda: Datapath.remove_pinned(made.pin_dir))
        made.ground.close()


@pytest.fixture
def node(module_node: Node) -> Node:
    """Empty maps, nothing attached; compiled programs stay where they are, as they do between agents."""
    datapath = module_node.open()
    datapath.apply(DatapathPlan())
    for ifindex in datapath.attached():
        module_node.inside(partial(datapath.detach, ifindex))
    datapath.close()
    return module_node


def same(one: DatapathPlan, other: DatapathPlan) -> bool:
    return (one.policy, one.endpoints, one.ipcache) == (other.policy, other.endpoints, other.ipcache)


def test_the_maps_hold_the_plan_also_after_changes_and_restarts(node: Node) -> None:
    datapath = node.open()
    first = datapath.apply(node.plan(80))
    assert same(node.held(), node.plan(80))
    assert datapath.apply(node.plan(80)).revision == first.revision
    assert datapath.apply(node.plan(80, 8080)).revision == first.revision + 1
    assert same(node.held(), node.plan(80, 8080))
    datapath.close()
    assert same(node.held(), node.plan(80, 8080))
    datapath = node.open()
    assert datapath.sizes() == {"policy": 5, "endpoints": 1, "ipcache": 6}
    # The agent before may have died between its last change and the revision that makes it count.
    changed = datapath.apply(node.plan(80, 8080))
    assert (changed.written, changed.deleted, changed.revision) == (0, 0, first.revision + 2)
    datapath.apply(DatapathPlan())
    assert same(node.held(), DatapathPlan())
    datapath.close()


def test_a_plan_larger_than_one_batch(node: Node) -> None:
    datapath = node.open()
    large = node.plan(*range(1, 20_000, 2))
    assert len(large.policy) > 15_000
    datapath.apply(large)
    assert same(node.held(), large)
    datapath.apply(node.plan(1))
    assert same(node.held(), node.plan(1))
    datapath.close()


def test_an_apply_that_failed_half_way_converges(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    datapath = node.open()
    before = datapath.apply(node.plan(80)).revision

    def fail(self: object, keys: object) -> None:
        raise OSError("out of luck")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="out of luck"):
        patch.setattr(PinnedMap, "remove", fail)
        datapath.apply(node.plan(8080))
    assert not same(node.held(), node.plan(8080))
    assert datapath.apply(node.plan(8080)).revision == before + 1
    assert same(node.held(), node.plan(8080))
    datapath.close()


def test_a_change_without_room_changes_nothing_and_leaves_none_behind(node: Node) -> None:
    """What an earlier failure left takes no room from the next change."""
    maps, kept = node.pin_dir / "maps", node.pin_dir / "kept"
    first, second, large = node.plan(80), node.plan(8080), node.plan(*range(1, 40, 2))
    (maps / "policy").rename(kept)
    try:
        room = len(first.policy.keys() | second.policy.keys())
        pin_small(maps, layout.POLICY, room)
        datapath = node.open()
        revision = datapath.apply(first).revision
        with pytest.raises(MapFullError, match=r"entries of the BPF map policy .*: nothing is changed"):
            datapath.apply(large)
        assert same(node.held(), first)
        datapath.close()
        policy = PinnedMap(maps, layout.POLICY)
        policy.put({key._replace(policy=77): first.policy[key] for key in [*first.policy][: room - len(first.policy)]})
        policy.close()
        datapath = node.open()
        assert datapath.apply(second).revision == revision + 1
        assert same(node.held(), second)
        datapath.close()
    finally:
        kept.rename(maps / "policy")


def test_attaching_is_idempotent_and_survives_the_agent(node: Node) -> None:
    datapath = node.open()
    for _ in range(2):
        node.inside(lambda: datapath.attach(node.endpoint()))
        assert datapath.attached() == {node.pod.ifindex}
    datapath.close()
    datapath = node.open()
    assert datapath.attached() == {node.pod.ifindex}
    for _ in range(2):
        node.inside(lambda: datapath.detach(node.pod.ifindex))
        assert datapath.attached() == frozenset()
    datapath.close()


def test_the_kernel_is_spared_its_own_look_at_sources_while_from_pod_looks(node: Node) -> None:
    def trusted() -> bool:
        return node.inside(Path(f"/proc/sys/net/ipv4/conf/{node.pod.interface}/accept_local").read_text) == "1\n"

    datapath = node.open()
    assert not trusted()
    node.inside(lambda: datapath.attach(node.endpoint()))
    assert trusted()
    node.inside(lambda: datapath.detach(node.pod.ifindex))
    assert not trusted()
    node.inside(lambda: datapath.attach(node.endpoint()))
    datapath.close()
    assert trusted()
    node.inside(lambda: Datapath.remove_pinned(node.pin_dir))
    assert not trusted()


def test_an_endpoint_that_goes_and_comes_back_at_once_is_policed(node: Node) -> None:
    datapath = node.open()

    def go_and_come_back() -> None:
        for _ in range(10):
            datapath.attach(node.endpoint())
            datapath.detach(node.pod.ifindex)

    node.inside(go_and_come_back)
    assert datapath.attached() == frozenset()
    datapath.close()


def test_links_of_vanished_interfaces_are_taken_away(node: Node) -> None:
    datapath = node.open()
    pod = node.ground.pod("brief")
    gone = Endpoint(Workload("brief", "default", ()), 70003, pod.ips, pod.ifindex, pod.interface)
    node.inside(lambda: datapath.attach(gone))
    node.ground.remove(pod)
    datapath.close()
    datapath = node.open()
    deadline = time.monotonic() + 20
    while datapath.attached() and time.monotonic() < deadline:
        time.sleep(0.01)  # the kernel takes a namespace down when it comes to it
    assert datapath.attached() == frozenset()
    assert [path.name for path in (node.pin_dir / "links").iterdir()] == ["1-from_loopback"]
    with pytest.raises(EndpointUnreachableError, match="does not exist"):
        node.inside(lambda: datapath.attach(replace(gone, interface="")))
    datapath.close()


def test_two_agents_cannot_share_a_pin_folder(node: Node) -> None:
    datapath = node.open()
    with pytest.raises(PinConflictError, match="another agent uses"):
        node.open()
    with pytest.raises(PinConflictError, match="another agent uses"):
        Datapath.remove_pinned(node.pin_dir)
    datapath.close()


def test_maps_of_another_version_are_refused_and_left_alone(node: Node) -> None:
    node.open().close()
    (node.pin_dir / "maps/ipcache").unlink()
    (node.pin_dir / "maps/endpoints").rename(node.pin_dir / "maps/ipcache")
    with pytest.raises(PinConflictError, match="made by another version"):
        node.open()
    assert (node.pin_dir / "maps/ipcache").exists()
    node.inside(lambda: Datapath.remove_pinned(node.pin_dir))


def test_a_program_that_only_another_version_knows_is_left_where_it_is(node: Node) -> None:
    """An older agent after a newer one: what it does not know it could not keep in step."""
    datapath = node.open()
    node.inside(lambda: datapath.attach(node.endpoint()))
    datapath.close()
    links = node.pin_dir / "links"
    known, strange = links / f"{node.pod.ifindex}-to_pod", links / f"{node.pod.ifindex}-to_moon"
    known.rename(strange)
    with pytest.raises(PinConflictError, match=r"to_moon was put there by another version of Lockgate; start that one"):
        node.open()
    assert strange.exists()
    strange.rename(known)
    node.open().close()


@pytest.mark.parametrize("name", ["connections", "counters", "drops"])
def test_what_another_version_remembers_is_forgotten(node: Node, name: str) -> None:
    node.open().close()
    (node.pin_dir / "maps" / name).unlink()
    (node.pin_dir / "maps/endpoints").rename(node.pin_dir / "maps" / name)
    for program in (node.pin_dir / "programs").iterdir():
        program.unlink()  # that version's
    node.open().close()
    os.close(open_map(node.pin_dir / "maps", name))
    node.inside(lambda: Datapath.remove_pinned(node.pin_dir))


def test_remove_leaves_nothing(node: Node) -> None:
    datapath = node.open()
    node.inside(lambda: datapath.attach(node.endpoint()))
    rules = node.ground.node.run(["ip", "rule"]).stdout
    assert "0x200/0xf00 lookup 2005" in rules
    node.inside(datapath.remove)
    assert not node.pin_dir.exists()
    for family in ("-4", "-6"):
        assert "2005" not in node.ground.node.run(["ip", family, "rule"]).stdout
        assert node.ground.node.run(["ip", family, "route", "show", "table", "2005"]).stdout == ""
    node.inside(lambda: Datapath.remove_pinned(node.pin_dir))  # nothing there is fine


def test_a_name_that_is_no_endpoint_stays_world(node: Node) -> None:
    datapath = node.open()
    datapath.apply(node.plan(80))
    owner = node.held().owner(ip_address("192.0.2.1"))
    assert owner is not None and owner.identity == 9
    datapath.close()
