"""Agents come and go, with the option and without."""

from __future__ import annotations

import os

from lockgate.tests.e2e.datapath_node import L4, Node, ask, connect
from lockgate.tests.e2e.host_routing.ground import (
    through_stack,
)


def test_on_and_off_while_connections_live(node: Node) -> None:
    with through_stack(node, node.server) as stack, connect(node.client, node.server.ipv4, L4) as live:
        port = live.getsockname()[1]
        try:
            for straight in (True, False, True, False):
                node.host_routing = straight
                node.reopen()
                node.enforce()
                ask(live)  # judged anew, maybe
                ask(live)
                stack.passed()
                body = os.urandom(300_000)
                assert ask(live, body) == body
                assert (stack.passed(port) == []) == straight
        finally:
            node.host_routing = True
            node.reopen()


def test_the_agent_is_gone(node: Node) -> None:
    """What it has set up goes on, for connections that are and those to come."""
    with connect(node.client, node.server.ipv4, L4) as live, through_stack(node, node.server) as stack:
        ask(live)
        node.datapath.close()
        try:
            stack.passed()
            ask(live)
            assert stack.passed(live.getsockname()[1]) == []
            with connect(node.client, node.server.ipv6, L4) as later:
                ask(later)
                stack.passed()
                ask(later)
                assert stack.passed(later.getsockname()[1]) == []
        finally:
            node.datapath = node.opened()
