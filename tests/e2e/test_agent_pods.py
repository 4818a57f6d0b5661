"""Pods that come and go under a running agent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml
from lockgate.agent.playground import Pod
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, LiveNode, fetch
from lockgate.tests.reused_pid import another

USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture
def node(shared_node: LiveNode) -> Iterator[LiveNode]:
    """With the four usual pods and nothing else."""
    usual = list(shared_node.ground.pods)
    yield shared_node
    for pod in [each for each in shared_node.ground.pods if each not in usual]:
        shared_node.remove(pod)
    shared_node.list_pods()
    shared_node.until("all is as it was", lambda: shared_node.ok() and attached(shared_node) == len(usual))


def attached(node: LiveNode) -> int:
    """How many interfaces the kernel polices."""
    return int(node.status()["datapath"]["attached"])


def list_with(node: LiveNode, *more: dict[str, object]) -> None:
    """The usual pods and more entries, whether or not they exist."""
    usual = [pod.workload() for pod in (node.frontend, node.intruder, node.backend, node.api)]
    node.workloads.write_text(yaml.safe_dump({"workloads": [*usual, *more]}))


def api_server(netns: str, name: str = "api-late") -> dict[str, object]:
    """An entry without addresses: they are read from the namespace."""
    return {"name": name, "labels": {"app": "api-server"}, "netns": netns}


def judged_by_request(node: LiveNode, pod: Pod) -> bool:
    """What the article's policy says about an api-server, on both families."""
    return all(
        [fetch(node.frontend, ip, 80, path, patience=GLANCE) for path in (USERS, ADMIN)] == [OK, DENIED]
        and fetch(node.intruder, ip, 80, USERS, patience=GLANCE) == DROPPED
        for ip in pod.ips
    )


def test_a_pod_that_is_added_later(node: LiveNode) -> None:
    """First the list names it and it does not exist, then its namespace comes, last its addresses."""
    netns = f"{node.node.netns}-late"
    list_with(node, api_server(netns))
    node.until("it is missed", lambda: any(f"{netns} is gone" in each for each in node.problems()))
    assert node.lockgate("status").status == 1
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED, "the others stay enforced"
    late = node.ground.pod("late", labels={"app": "api-server"})
    web = node.serve(late, 80)
    node.until("it is enforced", lambda: judged_by_request(node, late))
    node.until("nothing is wrong any more", node.ok)
    assert {each.path for each in web.seen if each.client != str(node.frontend.ipv4)} <= {USERS}
    listed = {each["endpoint"]: each for each in node.lockgate("endpoint", "list", "-o", "json").data}
    assert listed["default/api-late"]["ips"] == [str(ip) for ip in late.ips]
    assert (listed["default/api-late"]["interface"], listed["default/api-late"]["ingress"]) == (late.interface, "L7")


def test_a_pod_whose_namespace_goes_and_comes_back(node: LiveNode) -> None:
    pod = node.ground.pod("again", labels={"app": "api-server"})
    entry = api_server(pod.netns, "again")
    node.serve(pod, 80)
    node.list_pods()
    node.until("it is enforced", lambda: judged_by_request(node, pod))
    before = attached(node)
    node.remove(pod)
    list_with(node, entry)
    sentence = f"workload default/again: network namespace /run/netns/{pod.netns} is gone"
    node.until("it is missed", lambda: any(each.startswith(sentence) for each in node.problems()))
    ended = node.lockgate("status")
    assert (ended.status, ended.out.count("problem    ")) == (1, 1)
    assert attached(node) == before - 1
    assert judged_by_request(node, node.api)
    back = node.ground.pod("again", labels={"app": "api-server"})
    node.serve(back, 80)
    assert back.ifindex != pod.ifindex
    node.until("it is enforced again", lambda: judged_by_request(node, back))
    node.until("nothing is wrong any more", node.ok)


def test_an_address_that_comes_last(node: LiveNode) -> None:
    """No news reaches the node when a pod gets its address: the agent looks by itself."""
    pod = node.ground.pod("bare", labels={"app": "api-server"})
    node.serve(pod, 80)
    pod.run(["ip", "addr", "flush", "dev", "eth0"], check=True)
    list_with(node, api_server(pod.netns))
    node.until("it is told", lambda: any("default/api-late has no address" in each for each in node.problems()))
    pod.run(["ip", "addr", "add", f"{pod.ipv4}/32", "dev", "eth0"], check=True)
    pod.run(["ip", "route", "replace", "default", "via", "169.254.1.1", "dev", "eth0", "onlink"], check=True)
    node.until("nothing is wrong any more", node.ok)
    assert fetch(node.frontend, pod.ipv4, 80, ADMIN) == DENIED


def test_a_pod_that_is_struck_from_the_list_is_let_go_of(node: LiveNode) -> None:
    pod = node.ground.pod("free", labels={"app": "api-server"})
    node.serve(pod, 80)
    node.list_pods()
    node.until("it is enforced", lambda: judged_by_request(node, pod))
    list_with(node)
    node.becomes(OK, lambda: fetch(node.intruder, pod.ipv4, 80, ADMIN, patience=GLANCE))
    assert judged_by_request(node, node.api)


def test_many_pods_come_and_go_at_once(node: LiveNode) -> None:
    """Whatever the agent catches half made, it goes on."""
    for _ in range(3):
        pods = [node.ground.pod(f"churn{number}", labels={"app": "api-server"}) for number in range(4)]
        node.list_pods()
        for pod in pods:
            node.remove(pod)
    node.list_pods()
    node.until("nothing is wrong any more", node.ok)
    assert judged_by_request(node, node.api)
    assert attached(node) == len(node.ground.pods)
    assert node.agent is not None
    assert node.agent.poll() is None


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"name": "x", "pid": 4194303}, "workload default/x: "),
        ({"name": "x", "interface": "lg-none"}, "workload default/x: interface lg-none does not exist"),
        ({"name": "x", "interface": "lo"}, "workload default/x: interface lo is not a veth"),
        (
            {"name": "x", "ips": ["10.200.0.2"]},
            "workload default/x claims 10.200.0.2, which belongs to default/frontend",
        ),
        ({"name": "x"}, "workload default/x has no address"),
    ],
    ids=["pid", "no interface", "no veth", "address", "nothing"],
)
def test_a_workload_that_cannot_be_is_one_sentence_and_bothers_nobody(
    node: LiveNode, entry: dict[str, object], sentence: str
) -> None:
    list_with(node, entry)
    node.until("it is told", lambda: any(each.startswith(sentence) for each in node.problems()))
    assert judged_by_request(node, node.api)


def test_workloads_by_process_and_by_interface(node: LiveNode) -> None:
    by_pid, by_interface = (node.ground.pod(name, labels={"app": "api-server"}) for name in ("by-pid", "by-if"))
    for pod in (by_pid, by_interface):
        node.serve(pod, 80)
    sleeper = by_pid.popen(["sleep", "1000"])
    places: tuple[dict[str, object], ...] = ({"pid": sleeper.pid}, {"interface": by_interface.interface})
    list_with(node, *({"name": next(iter(place)), "labels": {"app": "api-server"}} | place for place in places))
    for pod in (by_pid, by_interface):
        node.until("it is enforced", partial(judged_by_request, node, pod))
    node.until("nothing is wrong", node.ok)


def test_a_process_whose_name_is_no_text(node: LiveNode, tmp_path: Path) -> None:
    """A process calls itself what it likes; the agent reads that name on the way to when it started."""
    pod = node.ground.pod("unnamed", labels={"app": "api-server"})
    node.serve(pod, 80)
    odd = tmp_path / os.fsdecode(b"\xff) Z 1")
    odd.symlink_to("/bin/sleep")
    pid = pod.popen([odd, "1000"]).pid
    node.until("it is called so", lambda: Path(f"/proc/{pid}/comm").read_bytes().startswith(b"\xff"))
    list_with(node, {"name": "unnamed", "labels": {"app": "api-server"}, "pid": pid})
    node.until("it is enforced", lambda: judged_by_request(node, pod))
    node.until("nothing is wrong", node.ok)


def test_another_process_with_the_number_of_a_workloads(node: LiveNode) -> None:
    """Its network is not policed as the workload's, and `status` tells; so does the next agent."""
    meant, other = (node.ground.pod(name, labels={"app": "api-server"}) for name in ("meant", "other"))
    for pod in (meant, other):
        node.serve(pod, 80)
    process = meant.popen(["sleep", "1000"])
    listed: dict[str, object] = {"name": "x", "labels": {"app": "api-server"}, "pid": process.pid}
    list_with(node, listed)
    node.until("it is enforced", lambda: judged_by_request(node, meant))
    process.kill()
    process.wait()
    told = f"workload default/x: process {process.pid} is not the one"
    with another(process.pid, lambda: other.popen(["sleep", "1000"])):
        list_with(node, listed, {"name": "more", "ips": ["10.200.0.99"]})
        node.until("it is told", lambda: any(each.startswith(told) for each in node.problems()))
        node.end_agent()
        node.start_agent(ready=False)
        node.until("it is told", lambda: any(each.startswith(told) for each in node.problems()))
        assert fetch(node.intruder, other.ipv4, 80, ADMIN) == OK
    list_with(node)
