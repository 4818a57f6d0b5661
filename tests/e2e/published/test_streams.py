"""What runs inside of a connection to a published port when only a rule by request changes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.published.ground import NODE, STREAM, say
from lockgate.tests.e2e.talk import ended, stream

PORT = 7000
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: published, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: published}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: asks}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}, {port: "8081", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: asks}}]
    toPorts: [{ports: [{port: "7000", protocol: TCP}], rules: {http: [{path: "/more"}RULE]}}]
"""
BOTH, MORE = POLICY.replace("RULE", ', {path: "/stream"}'), POLICY.replace("RULE", "")


@pytest.fixture
def listener(ground: Ground, beyond: tuple[Namespace, Namespace]) -> Iterator[socket.socket]:
    create = partial(socket.create_server, ("0.0.0.0", PORT))
    with netns.run_in(ground.engine.inside("published").path, create) as made:
        made.settimeout(20)
        yield made


@pytest.mark.parametrize("restart", [False, True], ids=["", "after another agent"])
def test_of_a_container_on_another_network(
    ground: Ground, beyond: tuple[Namespace, Namespace], listener: socket.socket, restart: bool
) -> None:
    """Also of one that came with the node's address: the stream of the rule that goes ends, the other one goes on."""
    asks, _ = beyond
    node = ground.node
    say(ground, BOTH)
    with ExitStack() as stack:
        streams = [stack.enter_context(stream(asks, NODE, STREAM, listener, path)) for path in ("/stream", "/more")]
        if restart:
            node.end_agent(signal.SIGKILL)
            ground.start_agent()
        assert all(each.lives() for each in streams)
        say(ground, MORE)
        over, kept = streams
        for end in (over.client, over.server):
            node.until("it is told", partial(ended, end))
        assert kept.lives()
