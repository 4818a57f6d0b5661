"""Agents and Envoys that die: what was allowed stays allowed, what was denied stays denied, successors take over."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.redirect.kernel import syscall
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.probes import Probes

API = (EXAMPLES / "api-access-control.yaml").read_text()
ADMIN_TOO = API + "        - method: GET\n          path: /api/v1/admin\n"
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def module_node() -> Iterator[LiveNode]:
    with live_node() as node:
        yield node


@pytest.fixture
def bare(module_node: LiveNode) -> LiveNode:
    """The node, whether or not an agent runs."""
    return module_node


@pytest.fixture
def node(module_node: LiveNode) -> LiveNode:
    """With a running agent that has nothing to complain about."""
    module_node.write("api-access-control", API)
    if module_node.agent is None:
        module_node.start_agent(ready=False)
    module_node.until("all is well", module_node.ok)
    module_node.becomes(DENIED, lambda: fetch(module_node.frontend, module_node.api.ipv4, 80, ADMIN))
    return module_node


def pins(node: LiveNode) -> dict[str, int]:
    """The pinned links and maps, each by the number that tells it from another of its name."""
    return {
        str(path): path.stat().st_ino for kind in ("links", "maps") for path in (node.settings.pin_dir / kind).iterdir()
    }


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_kill_9_of_the_agent(node: LiveNode) -> None:
    envoy, pinned = node.envoy_pid(), pins(node)
    with Probes(node) as probes:
        assert node.end_agent(signal.SIGKILL) == -signal.SIGKILL
        assert node.lockgate("status").status == 3
        probes.more()
        node.start_agent()
        probes.more()
    assert node.envoy_pid() == envoy, "Envoy is adopted"
    assert pins(node) == pinned, "links and maps are adopted"
    assert node.status()["envoy"]["restarts"] == 0
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(ADMIN)) == DENIED
        node.write("api-access-control", ADMIN_TOO)
        node.becomes(OK, lambda: line.ask(ADMIN))


def test_kill_9_of_agent_after_agent(node: LiveNode) -> None:
    """Each dies at another moment of its start."""
    envoy = node.envoy_pid()
    with Probes(node) as probes:
        node.end_agent(signal.SIGKILL)
        for delay in (0.5, 1.0, 1.5):
            node.start_agent(ready=False)
            time.sleep(delay)
            node.end_agent(signal.SIGKILL)
        probes.more()
        node.start_agent()
    assert node.envoy_pid() == envoy


def test_an_upgrade_whose_programs_remember_connections_otherwise(node: LiveNode) -> None:
    maps = node.settings.pin_dir / "maps"
    with Probes(node) as probes:
        node.end_agent(signal.SIGKILL)
        (maps / "connections").unlink()
        other = syscall.get(maps / "config")  # of another layout
        syscall.pin(other, maps / "connections")
        os.close(other)
        for program in (node.settings.pin_dir / "programs").iterdir():
            program.unlink()  # those of that version are others
        probes.more()
        node.start_agent()
        probes.more()
    assert node.ok()


def test_an_agent_that_was_killed_between_two_programs_of_a_pod(node: LiveNode) -> None:
    """One that stays an endpoint, and one that is none any more when the next agent comes."""
    links = node.settings.pin_dir / "links"
    left = node.ground.pod("left", labels={"app": "left"})
    workloads = node.workloads.read_text()
    try:
        node.list_pods()
        node.until("it is policed", lambda: node.status()["datapath"]["attached"] == 5)
        with Probes(node, l7_may_fail=True):
            node.end_agent(signal.SIGKILL)
            (links / f"{left.ifindex}-from_pod").unlink()
            (links / f"{node.frontend.ifindex}-to_pod").unlink()
            node.replace(node.workloads, workloads)
            node.start_agent()
        assert [*links.glob(f"{left.ifindex}-*_pod")] == []
        assert len([*links.glob(f"{node.frontend.ifindex}-*_pod")]) == 2
    finally:
        node.remove(left)
        node.replace(node.workloads, workloads)


def test_a_file_that_breaks_while_no_agent_runs_keeps_its_last_good_version(node: LiveNode) -> None:
    workloads = node.workloads.read_text()
    with Probes(node) as probes:
        node.end_agent(signal.SIGKILL)
        path = node.write("api-access-control", "kind: [")
        node.workloads.write_text(workloads.replace("10.200.0.5", "10.200.0.555"))
        node.start_agent(ready=False)
        node.until("it is reported", lambda: any("last good version" in each for each in node.problems()))
        assert any(each.startswith(f"{path}:") for each in node.problems())
        assert any(each.startswith(f"{node.workloads}:") for each in node.problems())
        assert node.status()["endpoints"] == {"local": 4, "known": 4}
        probes.more()
        node.write("api-access-control", API)
        node.workloads.write_text(workloads)
        node.until("nothing is wrong any more", node.ok)


def test_kill_9_of_envoy(node: LiveNode) -> None:
    """L7 fails closed meanwhile and comes back by itself; L4 does not notice. The probes look at the servers' logs."""
    restarts = node.status()["envoy"]["restarts"]
    with Probes(node, l7_may_fail=True) as probes:
        envoy = node.envoy_pid()
        began = time.monotonic()
        os.kill(envoy, signal.SIGKILL)
        node.until("Envoy is dead", lambda: not alive(envoy))
        node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))
        print(f"L7 flows {time.monotonic() - began:.2f} s after kill -9 of Envoy")
        assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED
        probes.more()
    node.until("the agent knows", lambda: node.status()["envoy"]["restarts"] == restarts + 1 and node.ok())
    assert node.envoy_pid() != envoy
    assert "killed by SIGKILL" in node.lockgate("status").out


def test_kill_9_of_envoy_and_its_supervisor(node: LiveNode) -> None:
    """The agent starts them again; a change that comes meanwhile is not lost."""
    with Probes(node, l7_may_fail=True):
        envoy = node.envoy_pid()
        os.kill(node.supervisor_pid(), signal.SIGKILL)
        node.until("Envoy dies with it", lambda: not alive(envoy))
        node.write("api-access-control", API + "        - method: GET\n          path: /unused\n")
        node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, "/unused", patience=GLANCE))
        node.webs["api-server"].seen.clear()
        node.until("all is well", node.ok)
    assert node.envoy_pid() != envoy


def test_agent_and_envoy_die_together_and_leave_their_files(node: LiveNode) -> None:
    """Stale sockets, locks, state and pins: the next agent starts all the same."""
    with Probes(node, l7_may_fail=True):
        envoy = node.envoy_pid()
        node.end_agent(signal.SIGKILL)
        os.kill(node.supervisor_pid(), signal.SIGKILL)
        node.until("Envoy dies too", lambda: not alive(envoy))
        left = {path.name for path in node.run_dir.iterdir()}
        assert {"agent.sock", "xds-5.sock", "admin.sock", "envoy.json"} <= left
        node.start_agent()
        assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK


def test_sigterm_leaves_everything_enforcing(node: LiveNode) -> None:
    envoy, pinned = node.envoy_pid(), pins(node)
    with Probes(node) as probes:
        assert node.end_agent(signal.SIGTERM) == 0
        probes.more()
    assert alive(envoy)
    assert pins(node) == pinned
    assert not node.run_dir.joinpath("agent.sock").exists()


def test_what_changed_while_no_agent_ran(bare: LiveNode) -> None:
    node = bare
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(ADMIN)) == DENIED
        if node.agent is not None:
            node.end_agent()
        node.write("api-access-control", ADMIN_TOO)
        (node.policies / "allow-frontend-to-backend.yaml").unlink()
        node.start_agent()
        assert str(line.ask(ADMIN)) == OK
        assert fetch(node.intruder, node.backend.ipv4, 8080) == OK
    node.write("allow-frontend-to-backend", (EXAMPLES / "allow-frontend-to-backend.yaml").read_text())
    node.becomes(DROPPED, lambda: fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE))


def test_a_second_agent_is_refused(node: LiveNode) -> None:
    assert node.agent is not None
    ended = node.try_agent()
    assert ended.status == 1
    assert ended.sentence.startswith(f"another agent (pid {node.agent.pid}) already uses {node.run_dir}; stop it first")
    ended = node.try_agent(run_dir=node.folder / "other")
    assert ended.status == 1
    assert "already runs in this network namespace" in ended.sentence
    assert node.ok()


def test_clean_takes_everything_away(node: LiveNode) -> None:
    refused = node.clean()
    assert refused.status == 1
    assert "another agent" in refused.sentence
    assert node.ok()
    envoy = node.envoy_pid()
    node.end_agent()
    (node.run_dir / "notes.txt").write_text("not an agent's")
    ended = node.clean()
    assert (ended.status, ended.out) == (0, "")
    assert ended.err == f"{node.run_dir} stays: it holds files that are no agent's (notes.txt)\n"
    assert [path.name for path in node.run_dir.iterdir()] == ["notes.txt"]
    (node.run_dir / "notes.txt").unlink()
    assert node.clean().status == 0, "twice is fine"
    assert not node.run_dir.exists()
    assert not node.settings.pin_dir.exists()
    assert not alive(envoy)
    for family in ("-4", "-6"):
        assert "2005" not in node.node.run(["ip", family, "rule"]).stdout
        assert node.node.run(["ip", family, "route", "show", "table", "2005"]).stdout == ""
    assert fetch(node.intruder, node.backend.ipv4, 8080) == OK, "nothing is enforced any more"
    assert fetch(node.intruder, node.api.ipv6, 80, ADMIN) == OK
    node.start_agent()
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED


def test_cleans_and_starts_at_once(node: LiveNode) -> None:
    """One at a time has the node; the others say who."""
    node.end_agent()
    clean = [sys.executable, "-P", "-m", "lockgate", "agent", "clean", "--run-dir", str(node.run_dir)]
    said = [
        node.node.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in (clean, clean, node.command(), clean, node.command())
    ]
    agents = (said[2], said[4])
    for process in said:
        while process.poll() is None and not (process in agents and node.ok()):
            time.sleep(0.05)
        process.terminate()
        _, told = process.communicate(timeout=30)
        assert "Traceback" not in told
        assert process.returncode == 0 or "another agent" in told or process in agents, told
    node.start_agent()
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED


def test_a_run_dir_that_is_lost(node: LiveNode) -> None:
    """The pins are still there, and so is Envoy, which nobody can adopt without its files."""
    pinned, supervisor, envoy = pins(node), node.supervisor_pid(), node.envoy_pid()
    node.end_agent()
    shutil.rmtree(node.run_dir)
    ended = node.try_agent()
    assert ended.status == 1
    assert "Envoy's port 127.0.0.1:15001 cannot be used (Address already in use): find its user" in ended.sentence
    os.kill(supervisor, signal.SIGTERM)
    node.until("Envoy ends", lambda: not alive(envoy))
    node.start_agent()
    assert pins(node) == pinned
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
