"""Pods that come and go by the dozen: nothing is left of them, and nothing gets through meanwhile.

LOCKGATE_CHURN_PODS=1000 makes it the long run; the usual one has a few dozen.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e import wire
from lockgate.tests.e2e.live_node import DENIED, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.wire import TCP, Wire, ip

PODS = int(os.environ.get("LOCKGATE_CHURN_PODS", "36"))
BATCH = 12
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node() as made:
        yield made


def left_behind(node: LiveNode) -> dict[str, int]:
    """What grows when something is forgotten. Interfaces of the node, links, map entries, rules, the agent's files."""
    assert node.agent is not None
    rules = sum(len(node.node.run(["ip", family, "rule"], check=True).stdout.splitlines()) for family in ("-4", "-6"))
    table = node.node.run(["ip", "route", "show", "table", "all"], check=True).stdout.splitlines()
    maps = node.lockgate("datapath", "status", "-o", "json").data["maps"]
    return {
        "links": len(list((node.settings.pin_dir / "links").iterdir())),
        "programs": len(list((node.settings.pin_dir / "programs").iterdir())),
        "rules": rules,
        "routes": len(table),
        "files": len(list(Path(f"/proc/{node.agent.pid}/fd").iterdir())),
        "interfaces": netns.run_in(node.node.path, lambda: len(socket.if_nameindex())),
        **{f"map {name}": entries for name, entries in maps.items()},
    }


def memory(node: LiveNode) -> int:
    """Of the agent, in kB."""
    assert node.agent is not None
    lines = Path(f"/proc/{node.agent.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


class Siege:
    """The intruder knocks at the api-server all the time; the frontend's one connection goes on, judged by request."""

    def __init__(self, node: LiveNode, attacker: Wire, capture: Wire) -> None:
        self._node, self._attacker, self._capture = node, attacker, capture
        self._over = threading.Event()
        self.knocks = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        client, server = self._node.intruder.ipv4, self._node.api.ipv4
        with Line(self._node.frontend, server, 80) as line:
            while not self._over.wait(0.01):
                self.knocks += 1
                sport = 20000 + self.knocks % 40000
                for port in (80, 8080):
                    self._attacker.send(ip(client, server, TCP, wire.tcp(client, server, sport, port)))
                answers = [str(line.ask(path)) for path in (USERS, ADMIN)]
                if answers != [OK, DENIED]:
                    self.wrong.append(str(answers))
                    return
                if any(client.packed in frame for frame in self._capture.received()):
                    self.wrong.append("a packet of the intruder's has arrived")
                    return

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Meanwhile."""
        self._thread.start()
        try:
            yield
        finally:
            self._over.set()
            self._thread.join()


def test_pods_come_and_go_without_a_trace_and_without_a_gap(node: LiveNode) -> None:
    with Wire(node.intruder, node.node) as attacker, Wire(node.api, node.node) as capture:
        siege = Siege(node, attacker, capture)
        before: dict[str, int] = {}
        began = 0
        with siege.going_on():
            for number in range(max(PODS // BATCH, 2)):
                come_and_go(node, attacker, number)
                if not number:  # what the first ones leave (caches, threads) is left once
                    before, began = left_behind(node), memory(node)
        assert siege.wrong == []
        assert siege.knocks > 10
        now = left_behind(node)
        assert now.pop("files") - before.pop("files") < BATCH, "a question to the agent may be open at this moment"
        assert now == before
        assert memory(node) - began < 16_000


def come_and_go(node: LiveNode, attacker: Wire, number: int) -> None:
    """One batch of pods, each policed by request."""
    usual = len(node.ground.pods)
    pods = [node.ground.pod(f"churn{index}", labels={"app": "api-server"}) for index in range(BATCH)]
    try:
        node.list_pods()
        node.until("they are policed", lambda: node.ok() and attached(node) == usual + BATCH)
        captures = [Wire(pod, node.node) for pod in pods]
        try:
            own = node.intruder.ipv4
            for pod in pods:
                for port in (80, 8080):
                    segment = wire.tcp(own, pod.ipv4, 30000 + number, port)
                    attacker.send(ip(own, pod.ipv4, TCP, segment))
            # The node's own are let in: when the last has arrived, the others would have.
            for pod, seen in zip(pods, captures, strict=True):
                fetch(node.node, pod.ipv4, 80, patience=GLANCE)
                frames = seen.received()
                assert frames, "the capture works"
                assert not [frame for frame in frames if own.packed in frame]
        finally:
            for each in captures:
                each.close()
    finally:
        for pod in pods:
            node.remove(pod)
        node.list_pods()
        node.until("they are gone", lambda: node.ok() and in_force(node) == usual)


def in_force(node: LiveNode) -> int:
    """How many workloads the world in force has."""
    return len(ask(node.run_dir, "/v1/endpoints"))


def attached(node: LiveNode) -> int:
    """How many interfaces the kernel polices."""
    return int(node.status()["datapath"]["attached"])
