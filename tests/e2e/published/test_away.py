"""Published ports while Envoy, the agent or the program at lo is away."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

from lockgate.agent.playground import Outside
from lockgate.redirect.kernel import netns, pinned_link
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line
from lockgate.tests.e2e.published.ground import HTTP, NODE, PLAIN, ask, publish


def test_envoy_is_replaced(ground: Ground, outside: Outside) -> None:
    node = ground.node
    publish(ground)
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        assert node.lockgate("envoy", "restart").status == 0
        assert [ask(ground, path) for path in ("/open", "/shut")] == [OK, DENIED]
        assert str(line.ask("/open")) in (OK, CLOSED), "it may have been told to come anew"


def test_nobody_listens(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    envoy, supervisor = node.envoy_pid(), node.supervisor_pid()
    node.end_agent(signal.SIGKILL)
    for pid in (supervisor, envoy):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.becomes(DROPPED, lambda: ask(ground, "/open", patience=GLANCE))
    ground.webs[0].seen.clear()
    for path in ("/open", "/shut"):
        assert ask(ground, path, patience=GLANCE) == DROPPED
    assert ask(ground, "/any", PLAIN) == OK
    assert ground.webs[0].seen == []
    ground.start_agent()
    node.becomes(OK, lambda: ask(ground, "/open", patience=GLANCE))


def test_no_agent_runs(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    node.end_agent(signal.SIGKILL)
    assert ask(ground, "/open") == OK
    assert ask(ground, "/shut") == DENIED
    ground.start_agent()
    assert ask(ground, "/open") == OK
    assert ask(ground, "/shut") == DENIED


def test_without_the_program_at_lo_it_is_dropped(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    pins = node.lockgate("datapath", "status", "-o", "json").data["pin_dir"]

    netns.run_in(node.node.path, lambda: pinned_link.remove(Path(pins) / "links" / "1-from_loopback"))
    ground.webs[0].seen.clear()
    assert ask(ground, "/open") == DROPPED
    assert ground.seen() == []
    node.end_agent()
    ground.start_agent()
    assert ask(ground, "/open") == OK
