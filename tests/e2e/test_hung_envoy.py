"""An Envoy that lives and does nothing: what changes meanwhile, and what it does when it goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, EXAMPLES, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.test_effect import metrics
from lockgate.tests.unit.agent.test_metrics import samples

API = (EXAMPLES / "api-access-control.yaml").read_text()
ADMIN_TOO = API + "        - method: GET\n          path: /api/v1/admin\n"
BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
NOBODY = BACKEND.replace("app: frontend", "app: nobody")
INTRUDER_TOO = BACKEND.replace(
    "matchLabels:\n        app: frontend", "matchExpressions:\n      - {key: app, operator: Exists}"
)
BY_REQUEST = BACKEND + "      rules:\n        http:\n        - method: GET\n          path: /\n"
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def module_node() -> Iterator[LiveNode]:
    with live_node() as node:
        yield node


@pytest.fixture
def node(module_node: LiveNode) -> LiveNode:
    module_node.write("api-access-control", API)
    module_node.write("allow-frontend-to-backend", BACKEND)
    module_node.until("all is well", module_node.ok)
    module_node.becomes(DENIED, lambda: fetch(module_node.frontend, module_node.api.ipv4, 80, ADMIN))
    module_node.becomes(OK, lambda: fetch(module_node.frontend, module_node.backend.ipv4, 8080))
    return module_node


@pytest.fixture
def watchful(node: LiveNode) -> LiveNode:
    """Its agent replaces an Envoy that does nothing for five seconds."""
    node.end_agent()
    config = node.folder / "config.yaml"
    config.write_text("envoy_hang: 5\n")
    node.start_agent("--config", config)
    return node


@contextmanager
def hanging(pid: int) -> Iterator[int]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def end_of(line: Line, path: str = "/") -> str:
    """How the first request that does not come through ends."""
    while (answer := str(line.ask(path))) == OK:
        pass
    return answer


def backend(node: LiveNode, where: str = "frontend") -> str:
    pod = node.frontend if where == "frontend" else node.intruder
    return fetch(pod, node.backend.ipv4, 8080, patience=GLANCE)


def test_an_l4_policy_changes_without_envoy(node: LiveNode) -> None:
    with Line(node.frontend, node.backend.ipv4, 8080) as line, hanging(node.envoy_pid()):
        assert str(line.ask("/")) == OK
        node.write("allow-frontend-to-backend", NOBODY)
        began = time.monotonic()
        assert end_of(line) == CLOSED
        assert backend(node) == DROPPED
        print(f"a connection was reset {time.monotonic() - began:.2f} s after the change")
        node.write("allow-frontend-to-backend", INTRUDER_TOO)
        node.becomes(OK, lambda: backend(node, "intruder"))
        node.write("allow-frontend-to-backend", BACKEND)
        node.becomes(DROPPED, lambda: backend(node, "intruder"))
        assert backend(node) == OK
        assert node.ok(), "nobody has to tell Envoy anything"
        node.write("api-access-control", ADMIN_TOO)
        node.until("it is told", lambda: any("has not answered" in problem for problem in node.problems()))
        node.write("allow-frontend-to-backend", NOBODY)
        node.becomes(DROPPED, lambda: backend(node))
    node.until("Envoy has heard of it", node.ok)


def test_what_is_denied_whole_does_not_wait_for_envoy(node: LiveNode) -> None:
    """Both ends of what Envoy carries hear of it."""
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(USERS)) == OK
        with hanging(node.envoy_pid()):
            node.write("api-access-control", API.replace("role: frontend", "role: nobody"))
            assert str(line.ask(USERS)) == CLOSED
            assert fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE) == DROPPED
        node.until("Envoy has heard of it", node.ok)
        assert fetch(node.frontend, node.api.ipv4, 80, USERS, patience=GLANCE) == DROPPED


def test_what_is_to_be_judged_by_request_is_dropped_until_envoy_knows(node: LiveNode) -> None:
    with Line(node.frontend, node.backend.ipv4, 8080) as line:
        assert str(line.ask("/")) == OK
        with hanging(node.envoy_pid()):
            node.write("allow-frontend-to-backend", BY_REQUEST)
            assert end_of(line) == CLOSED
            assert backend(node) == DROPPED
        node.until("Envoy has heard of it", node.ok)
    assert backend(node) == OK
    assert fetch(node.frontend, node.backend.ipv4, 8080, "/other") == DENIED


def test_what_was_tightened_meanwhile_when_envoy_goes_on(node: LiveNode) -> None:
    """Nothing passes while it hangs. Then it judges by what it knew until it has read what it was told."""
    node.write("api-access-control", ADMIN_TOO)
    node.until("that is in force", node.ok)
    node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, ADMIN))
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(ADMIN)) == OK
        with hanging(node.envoy_pid()):
            node.write("api-access-control", API)
            node.until("it is told", lambda: "STALE" in node.lockgate("xds", "status").out)
            assert fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE) == DROPPED
        began = time.monotonic()
        let_in = 0
        while str(line.ask(ADMIN)) == OK:
            let_in += 1
        print(f"denied {1000 * (time.monotonic() - began):.1f} ms after it went on, {let_in} requests let in before")
    node.until("Envoy has heard of it", node.ok)
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED


def hangs(node: LiveNode) -> int:
    """As the metrics tell."""
    return int(samples(metrics(node))["lockgate_envoy_hangs_total"])


def test_one_that_hangs_is_replaced_and_traffic_comes_back(watchful: LiveNode) -> None:
    node = watchful
    envoy = node.envoy_pid()
    with Line(node.frontend, node.api.ipv4, 80) as line, Line(node.frontend, node.backend.ipv4, 8080) as l4:
        assert str(line.ask(USERS)) == OK
        os.kill(envoy, signal.SIGSTOP)
        node.until("it is told of", lambda: any("has done nothing for" in each for each in node.problems()))
        node.write("api-access-control", ADMIN_TOO)
        assert str(line.ask(USERS)) == CLOSED, "it ends with the Envoy that carried it"
        node.becomes(OK, lambda: fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE))
        assert str(l4.ask("/")) == OK
    node.until("all is well", node.ok)
    assert node.envoy_pid() != envoy
    envoys = node.status()["envoy"]
    assert envoys["hangs"] == hangs(node) == 1
    assert "hung (" in envoys["last_exit"]
    assert fetch(node.frontend, node.api.ipv4, 80, "/other") == DENIED


def test_an_agent_that_starts_beside_one_that_hangs(watchful: LiveNode) -> None:
    """What changed while none ran comes into force; the supervisor, which needs no agent, replaces Envoy."""
    node = watchful
    supervisor, envoy = node.supervisor_pid(), node.envoy_pid()
    with Line(node.frontend, node.backend.ipv4, 8080) as line:
        assert str(line.ask("/")) == OK
        node.end_agent(signal.SIGKILL)
        os.kill(envoy, signal.SIGSTOP)
        node.write("allow-frontend-to-backend", NOBODY)
        node.start_agent("--config", node.folder / "config.yaml", ready=False)
        assert end_of(line) == CLOSED
    node.until("all is well", node.ok)
    assert backend(node) == DROPPED
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert node.envoy_pid() != envoy and node.supervisor_pid() == supervisor


def test_without_an_agent_it_is_replaced_too(watchful: LiveNode) -> None:
    """The new one has nobody to ask, and denies until there is."""
    node = watchful
    envoy = node.envoy_pid()
    node.end_agent()
    os.kill(envoy, signal.SIGSTOP)
    node.until("it is gone", lambda: not Path(f"/proc/{envoy}").exists())
    assert backend(node) == OK
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE) != OK
    node.start_agent("--config", node.folder / "config.yaml")
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
