"""What becomes of connections to a published port when the policy changes, or who has the port."""

from __future__ import annotations

import socket

import pytest
from lockgate.agent.playground import Outside
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line
from lockgate.tests.e2e.published.ground import CLOSED_TO_IT, HTTP, NODE, OPEN, POLICED, ask, publish, published, say


def test_a_connection_from_before_the_rule(ground: Ground, outside: Outside) -> None:
    """It ends; who comes back comes through Envoy."""
    publish(ground)
    say(ground, OPEN)
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/shut")) == OK
        say(ground, POLICED)
        ground.webs[0].seen.clear()
        assert str(line.ask("/shut")) == CLOSED
    assert ask(ground, "/shut") == DENIED
    assert ask(ground, "/open") == OK
    assert {path for _, path in ground.seen()} == {"/open"}


@pytest.mark.parametrize("policy", [OPEN, POLICED], ids=["past Envoy", "through Envoy"])
def test_one_that_is_not_allowed_any_more(ground: Ground, outside: Outside, policy: str) -> None:
    publish(ground)
    say(ground, policy)
    ground.node.becomes(OK, lambda: ask(ground, "/open"))
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        say(ground, CLOSED_TO_IT)
        assert str(line.ask("/open")) == CLOSED
    assert ask(ground, "/open") == DROPPED


def test_loosening_ends_nothing(ground: Ground, outside: Outside) -> None:
    publish(ground)
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        say(ground, OPEN)
        assert str(line.ask("/open")) == OK
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))


def test_a_silent_client_is_told(ground: Ground, outside: Outside) -> None:
    publish(ground)
    say(ground, OPEN)
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))
    made = netns.run_in(outside.path, lambda: socket.create_connection((NODE, HTTP), 20))
    with made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert made.recv(4096)
        say(ground, POLICED)
        with pytest.raises(ConnectionResetError):
            made.recv(1)


def test_a_port_in_other_hands(ground: Ground) -> None:
    """The container goes, another one is published there."""
    engine = ground.engine
    publish(ground)
    engine.docker("rm", "-f", "published")
    for web in ground.webs:
        web.close()
    ground.webs.clear()
    assert ask(ground, "/open") != OK
    placeholder = engine.container("placeholder")  # has the address
    ground.known("default/placeholder")
    second = publish(ground)
    assert second.ip != placeholder.ip
    assert ask(ground, "/shut") == DENIED
    engine.docker("rm", "-f", "published")
    free = engine.container("free", *published())
    ground.serve(free)
    ground.known("default/free")
    ground.node.becomes(OK, lambda: ask(ground, "/shut", patience=GLANCE))
