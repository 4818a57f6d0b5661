"""Folders of the agent that fill up, or that nobody can write: what is enforced stays, it is said, and it heals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node
from lockgate.tests.scarcity import disk, full, read_only

BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def module_node() -> Iterator[LiveNode]:
    with ExitStack() as stack:
        node = stack.enter_context(live_node(start=False))
        for folder, room in ((node.folder / "state", 2048), (node.run_dir, 4096)):
            stack.enter_context(disk(folder, room))
        stack.callback(node.clean)
        stack.callback(lambda: node.end_agent(signal.SIGKILL) if node.agent is not None else None)
        node.start_agent()
        yield node


@pytest.fixture
def node(module_node: LiveNode) -> LiveNode:
    if module_node.agent is None:
        module_node.start_agent(ready=False)
    module_node.write("allow-frontend-to-backend", BACKEND)
    module_node.until("all is well", module_node.ok)
    module_node.becomes(OK, lambda: fetch(module_node.frontend, module_node.backend.ipv4, 8080, patience=GLANCE))
    return module_node


def enforced(node: LiveNode) -> None:
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert fetch(node.frontend, node.api.ipv6, 80, ADMIN) == DENIED
    assert fetch(node.intruder, node.backend.ipv6, 8080, patience=GLANCE) == DROPPED


def test_the_state_directory_fills_up(node: LiveNode) -> None:
    with full(node.folder / "state"):
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
        node.until(
            "it is told", lambda: any("accepted.db: database or disk is full" in each for each in node.problems())
        )
        enforced(node)
    node.until("it heals by itself", node.ok)


def test_an_agent_that_starts_with_a_full_state_directory(node: LiveNode) -> None:
    with full(node.folder / "state"):
        node.end_agent(signal.SIGKILL)
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        node.start_agent(ready=False)
        node.until("it is told", lambda: any("disk is full" in each for each in node.problems()))
        node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
        enforced(node)
    node.until("it heals by itself", node.ok)


@pytest.mark.parametrize("folder", ["state", "run"])
def test_an_agent_that_starts_where_nobody_can_write(node: LiveNode, folder: str) -> None:
    """As on a disk that the kernel has made read-only after an error."""
    node.end_agent(signal.SIGKILL)
    with read_only(node.folder / folder):
        ended = node.try_agent()
        assert ended.status == 1
        assert str(node.folder / folder) in ended.sentence
        assert "ead-only file system" in ended.sentence
        enforced(node)


def test_envoy_and_its_supervisor_die_while_the_run_directory_is_full(node: LiveNode) -> None:
    """What they write there while they run needs no more room than it has."""
    with full(node.run_dir):
        envoy = node.envoy_pid()
        os.kill(envoy, signal.SIGKILL)
        node.until("the next one is known", lambda: node.envoy_pid() not in (envoy, None) and node.ok())
        enforced(node)
        envoy = node.envoy_pid()
        os.kill(node.supervisor_pid(), signal.SIGKILL)
        node.until("a new one has begun", lambda: node.envoy_pid() not in (envoy, None) and node.ok())
        enforced(node)
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))


def test_an_agent_that_starts_with_a_full_run_directory(node: LiveNode) -> None:
    with full(node.run_dir):
        node.end_agent(signal.SIGKILL)
        node.start_agent()
        enforced(node)
        assert node.end_agent() == 0
    assert Path(node.run_dir / "envoy.json").read_text().strip().startswith("{")
