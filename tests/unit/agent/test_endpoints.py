"""From the user's list of workloads to endpoints with interfaces and addresses."""

from __future__ import annotations

from ipaddress import ip_address

from lockgate.agent.supply.endpoints import Discovery, discover
from lockgate.policies.workload import Workload
from lockgate.redirect.device import Device
from lockgate.redirect.errors import NamespaceGoneError, NotSeenError

ONE, TWO, THREE = (ip_address(text) for text in ("10.0.0.1", "10.0.0.2", "fd00::3"))
DEVICES = {"a": Device(7, "veth-a", (ONE, THREE)), "b": Device(8, "veth-b", (TWO,)), "bare": Device(9, "veth-c", ())}


def find(workload: Workload) -> Device:
    assert workload.netns is not None
    if workload.netns not in DEVICES:
        raise NamespaceGoneError(f"network namespace {workload.netns} is gone")
    return DEVICES[workload.netns]


def find_none(workload: Workload) -> Device:
    raise NotSeenError("it cannot be looked at (Too many open files)")


def workload(name: str, *ips: object, netns: str | None = None) -> Workload:
    return Workload(name, "default", (("app", name),), netns=netns, ips=tuple(ips))  # type: ignore[arg-type]


def found(*workloads: Workload) -> dict[str, tuple[int, str, tuple[str, ...]]]:
    """What is known without any problem."""
    discovery = discover(workloads, find)
    assert discovery.problems == ()
    return described(discovery)


def described(discovery: Discovery) -> dict[str, tuple[int, str, tuple[str, ...]]]:
    return {each.key: (each.ifindex, each.interface, tuple(str(ip) for ip in each.ips)) for each in discovery.endpoints}


def test_addresses_are_read_from_the_device_unless_they_are_listed() -> None:
    assert found(workload("x", netns="a"), workload("y", "10.9.9.9", netns="b")) == {
        "default/x": (7, "veth-a", ("10.0.0.1", "fd00::3")),
        "default/y": (8, "veth-b", ("10.9.9.9",)),
    }


def test_a_workload_elsewhere_is_known_by_its_addresses_and_never_looked_for() -> None:
    assert found(workload("x", ONE)) == {"default/x": (0, "", ("10.0.0.1",))}
    assert not discover([workload("x", ONE)], find).endpoints[0].local


def test_processes_of_the_node_have_no_address_and_need_none() -> None:
    listed = [Workload(name, "default", (), cgroup="/a.service") for name in ("x", "y")]
    discovery = discover(listed, lambda workload: Device(1 << 31 | 7, "", ()))
    assert described(discovery) == {"default/x": (1 << 31 | 7, "", ())}
    assert discovery.problems == (
        "workload default/y has the same control group /a.service as default/x; the second one is ignored: correct one "
        "of them",
    )


def test_a_workload_that_is_gone_keeps_its_listed_addresses_and_its_neighbours() -> None:
    discovery = discover([workload("x", THREE, netns="gone"), workload("y", netns="b")], find)
    assert discovery.problems == ("workload default/x: network namespace gone is gone",)
    assert described(discovery) == {
        "default/x": (0, "", ("fd00::3",)),
        "default/y": (8, "veth-b", ("10.0.0.2",)),
    }


def test_one_cause_is_one_sentence() -> None:
    assert len(discover([workload("x", netns="gone")], find).problems) == 1
    assert len(discover([workload("x", ONE), workload("y", ONE)], find).problems) == 1


def test_a_workload_without_any_address_is_told() -> None:
    discovery = discover([workload("x", netns="bare"), workload("y")], find)
    assert [problem.split(":")[0] for problem in discovery.problems] == [
        "workload default/x has no address",
        "workload default/y has no address",
    ]
    assert described(discovery)["default/x"] == (9, "veth-c", ()), "its interface is policed all the same"


def test_two_workloads_on_one_interface_the_second_is_ignored() -> None:
    discovery = discover([workload("x", netns="a"), workload("y", netns="a")], find)
    assert list(described(discovery)) == ["default/x"]
    (problem,) = discovery.problems
    assert problem.startswith("workload default/y has the same interface veth-a as default/x; ")


def test_an_address_belongs_to_the_first_that_claims_it() -> None:
    discovery = discover([workload("x", ONE), workload("y", netns="a"), workload("z", ONE)], find)
    assert described(discovery) == {
        "default/x": (0, "", ("10.0.0.1",)),
        "default/y": (7, "veth-a", ("fd00::3",)),
        "default/z": (0, "", ()),
    }
    assert discovery.problems[0].startswith("workload default/y claims 10.0.0.1, which belongs to default/x; ")
    assert discovery.problems[1].startswith("workload default/z claims 10.0.0.1, which belongs to default/x; ")


def test_who_cannot_be_looked_at_stays_where_it_was() -> None:
    listed = [workload("x", netns="a"), workload("y", TWO, netns="b")]
    before = discover(listed, find)
    now = discover(listed, find_none, before.endpoints)
    assert described(now) == described(before)
    assert now.problems[0] == "workload default/x: it cannot be looked at (Too many open files)"
    moved = discover([workload("x", netns="b")], find_none, before.endpoints)
    assert described(moved) == {"default/x": (0, "", ())}, "what hung elsewhere says nothing of it"
    assert described(discover(listed, find_none)) == {"default/x": (0, "", ()), "default/y": (0, "", ("10.0.0.2",))}
