"""An Envoy that lives and does not answer to what it is told: it is given another stream, then replaced."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.tests.e2e.ack_relay import AckRelay
from lockgate.tests.e2e.live_node import CLOSED, DENIED, EXAMPLES, GLANCE, OK, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.test_effect import metrics
from lockgate.tests.unit.agent.test_metrics import samples

API = (EXAMPLES / "api-access-control.yaml").read_text()
ADMIN_TOO = API + "        - method: GET\n          path: /api/v1/admin\n"
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        config = made.folder / "config.yaml"
        config.write_text("envoy_hang: 5\n")
        made.start_agent("--config", config)
        yield made


@pytest.fixture(scope="module")
def relay(node: LiveNode) -> Iterator[AckRelay]:
    """Between the agent and an Envoy that comes anew."""
    made = AckRelay(node.settings.xds_socket)
    before = node.envoy_pid()
    os.kill(before, signal.SIGKILL)
    node.until("there is another", lambda: node.ok() and node.envoy_pid() != before)
    yield made
    made.close()


def cures(node: LiveNode) -> tuple[int, int]:
    """Streams that were ended, and Envoys that were replaced."""
    found = samples(metrics(node))
    stream, replacement = (found[f"lockgate_envoy_deaf_total,cure={cure}"] for cure in ("stream", "replacement"))
    return int(stream), int(replacement)


def admin(node: LiveNode) -> str:
    return fetch(node.frontend, node.api.ipv4, 80, ADMIN, patience=GLANCE)


def test_it_is_given_another_stream(node: LiveNode, relay: AckRelay) -> None:
    envoy = node.envoy_pid()
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(ADMIN)) == DENIED
        relay.swallow_streams()
        node.write("api-access-control", ADMIN_TOO)
        told = "Envoy lives, but has not answered to what it was told for "
        node.until("it is told", lambda: any(each.startswith(told) for each in node.problems()))
        node.until("it has heard", node.ok)
        assert admin(node) == OK
        assert str(line.ask(ADMIN)) == OK, "nothing ends by it"
    assert node.envoy_pid() == envoy
    assert cures(node) == (1, 0)
    assert "Envoy does not answer to what it is told: 1 of its xDS streams are ended" in node.log


def test_where_that_is_of_no_use_it_is_replaced(node: LiveNode, relay: AckRelay) -> None:
    node.write("api-access-control", ADMIN_TOO)
    node.until("that is in force", node.ok)
    envoy = node.envoy_pid()
    with Line(node.frontend, node.api.ipv4, 80) as line:
        assert str(line.ask(ADMIN)) == OK
        relay.swallow_connections()
        node.write("api-access-control", API)
        node.becomes(DENIED, lambda: admin(node))
        node.until("the other is gone", lambda: not Path(f"/proc/{envoy}").exists())
        assert str(line.ask(USERS)) == CLOSED, "it would be judged by what was in force"
    node.until("all is well", lambda: node.ok() and node.envoy_pid() != envoy)
    assert cures(node)[1] == 1
    assert fetch(node.frontend, node.api.ipv4, 80, USERS) == OK
    assert node.status()["envoy"]["hangs"] == 0, node.log + (node.run_dir / "envoy.log").read_text()
