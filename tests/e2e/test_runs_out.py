"""What an agent and its Envoy need runs out while they run: what is denied stays denied, it is said, and it heals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import connections_with
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, EXAMPLES, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.scarcity import descriptors, processes

BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node() as made:
        yield made


def sentence(node: LiveNode) -> str:
    """What the agent, if one answers, says of Envoy."""
    return str(node.status().get("envoy", {}).get("sentence", ""))


def still_denied(node: LiveNode) -> None:
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED


@pytest.mark.parametrize("more", [0, 1, 2, 4])
def test_the_agents_descriptors(node: LiveNode, more: int) -> None:
    """Wherever the first call is that gets none."""
    assert node.agent is not None
    with descriptors(node.agent.pid, more):
        node.node.run(["ip", "link", "add", "news", "type", "dummy"])
        still_denied(node)
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        still_denied(node)
        node.node.run(["ip", "link", "del", "news"])
        still_denied(node)
    node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.write("allow-frontend-to-backend", BACKEND)
    node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("all is well", node.ok)


def test_the_supervisor_can_start_no_process(node: LiveNode) -> None:
    supervisor = node.supervisor_pid()
    with processes(supervisor, 0):
        os.kill(node.envoy_pid(), signal.SIGKILL)
        node.until("it is told", lambda: "could not be started" in sentence(node))
        assert fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE) == DROPPED
        assert fetch(node.frontend, node.backend.ipv4, 8080) == OK, "L4 goes on"
        assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))
    node.until("all is well", node.ok)
    assert node.supervisor_pid() == supervisor


def test_envoy_has_descriptors_for_few_connections(node: LiveNode) -> None:
    """It takes no more than it can carry, whatever clients do, and goes on with those that it has."""
    assert node.agent is not None
    node.end_agent()
    any_number = node.folder / "any-number.yaml"
    any_number.write_text("connections_per_client: 0\n")
    command: list[str | Path] = ["prlimit", "--nofile=400:400", *node.command(), "--config", any_number]
    node.agent = node.node.popen(command, start_new_session=True)
    most = connections_with(400)
    node.until("Envoy is another one", lambda: "ends with its last" in sentence(node))
    with ExitStack() as stack, Line(node.frontend, node.api.ipv4, 80) as first:
        assert str(first.ask(USERS)) == OK
        answers = []
        for _ in range(most + 20):
            line = stack.enter_context(Line(node.frontend, node.api.ipv4, 80))
            answers.append(str(line.ask(USERS)))
        assert answers == [OK] * (most - 1) + [CLOSED] * 21
        assert str(first.ask(USERS)) == OK
        assert str(first.ask(ADMIN)) == DENIED
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE))
