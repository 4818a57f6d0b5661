"""A policy that is tightened ends the live connections that it no longer allows, at both ends and at once; one that is
loosened ends none."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Namespace
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode, live_node
from lockgate.tests.e2e.talk import Talk, ended, stream, talk
from lockgate.tests.e2e.wire import ACK, RST, TCP, Wire, ip, tcp

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: policy, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "7000", protocol: TCP}]RULES}]
  - fromEntities: [world]
    toPorts: [{ports: [{port: "7000", protocol: TCP}]RULES}]
"""
L7 = ', rules: {http: [{path: "/stream"}]}'
OPEN, POLICED = POLICY.replace("RULES", ""), POLICY.replace("RULES", L7)
NOBODY = OPEN[: OPEN.index("  ingress:")] + "  ingress: [{}]\n"
OTHERS = OPEN.replace("app: frontend", "app: backend").replace("[world]", "[health]")
PORT = 7000


@pytest.fixture(scope="module")
def live() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        made.ground.outside()
        for path in made.policies.iterdir():
            path.unlink()
        made.write("policy", OPEN)
        made.start_agent()
        made.until("the uplink is attached", lambda: made.status()["datapath"]["uplinks"] == 1)
        yield made


class Scene:
    """Who talks to the server, and what the policy says."""

    def __init__(self, node: LiveNode, stack: ExitStack) -> None:
        self.node = node
        self._stack = stack
        listener = partial(socket.create_server, ("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        self._listener = stack.enter_context(netns.run_in(node.api.path, listener))
        self._listener.settimeout(20)

    def say(self, policy: str) -> None:
        """The policy, when it is in force."""
        before = self.node.status()["agent"]["revision"]
        path = self.node.policies / "policy.yaml"
        if path.read_text() != policy:
            self.node.write("policy", policy)
            self.node.until(
                "it is in force", lambda: self.node.ok() and self.node.status()["agent"]["revision"] > before
            )

    def talk(self, where: Namespace, ip: IPAddress) -> Talk:
        """A new connection."""
        return self._stack.enter_context(talk(where, str(ip), PORT, self._listener))

    def stream(self, where: Namespace, ip: IPAddress, path: str = "/stream", header: bytes = b"") -> Talk:
        """A WebSocket through Envoy."""
        return self._stack.enter_context(stream(where, str(ip), PORT, self._listener, path, header))

    def both_end(self, *talks: Talk) -> None:
        """Waits until every end of every connection has been told, though none says anything."""
        for each in talks:
            self.node.until("the client is told", partial(ended, each.client))
            self.node.until("the server is told", partial(ended, each.server))


@pytest.fixture
def scene(live: LiveNode) -> Iterator[Scene]:
    with ExitStack() as stack:
        made = Scene(live, stack)
        yield made
        made.say(OPEN)


def dropped(node: LiveNode) -> int:
    counters = ask(node.run_dir, "/v1/datapath")["counters"]
    return sum(each["packets"] for each in counters if each["reason"] == "policy")


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
class TestTightening:
    def test_ends_silent_connections_at_both_ends(self, scene: Scene, family: int) -> None:
        api, node = scene.node.api.ips[family], scene.node
        ours = [scene.talk(node.frontend, api), scene.talk(node.ground.outside(), api)]
        other = scene.talk(node.node, api)
        assert all(talk.lives() for talk in (*ours, other))
        scene.say(NOBODY)
        scene.both_end(*ours)
        assert other.lives(), "the node itself is always let in"

    def test_ends_busy_ones(self, scene: Scene, family: int) -> None:
        api, node = scene.node.api.ips[family], scene.node
        talk = scene.talk(node.frontend, api)
        node.write("policy", OTHERS)
        node.until("it ends", lambda: not talk.lives())

    def test_resets_carry_nothing_any_further(self, scene: Scene, family: int) -> None:
        """The one that ends it goes on to the other end, and no other: they could have data in them for ever."""
        api, node = scene.node.api.ips[family], scene.node
        with Wire(node.frontend, node.node) as sender, Wire(node.api, node.node) as capture:
            talk = scene.talk(node.frontend, api)
            ends = node.frontend.ips[family], api, talk.client.getsockname()[1], PORT
            scene.say(NOBODY)
            scene.both_end(talk)
            capture.received()
            mark = os.urandom(16)
            before = dropped(node)
            for _ in range(10):
                sender.send(ip(*ends[:2], TCP, tcp(*ends, RST | ACK, data=mark)))
            node.until("they are dropped", lambda: dropped(node) >= before + 9)
            assert len([frame for frame in capture.received() if mark in frame]) <= 1

    def test_a_rule_by_request_ends_what_goes_past_envoy(self, scene: Scene, family: int) -> None:
        """The client comes back, and comes through Envoy."""
        api, node = scene.node.api.ips[family], scene.node
        ours = [scene.talk(node.frontend, api), scene.talk(node.ground.outside(), api)]
        scene.say(POLICED)
        scene.both_end(*ours)
        assert scene.stream(node.frontend, api).lives()

    def test_ends_long_streams_through_envoy(self, scene: Scene, family: int) -> None:
        api, node = scene.node.api.ips[family], scene.node
        scene.say(POLICED)
        streams = [scene.stream(node.frontend, api), scene.stream(node.ground.outside(), api)]
        assert all(stream.lives() for stream in streams)
        scene.say(NOBODY)
        scene.both_end(*streams)

    def test_by_request_ends_the_streams_of_other_requests(self, scene: Scene, family: int) -> None:
        """Peer and port stay allowed, and one of the two requests."""
        api, node = scene.node.api.ips[family], scene.node
        more = L7.replace("{path", '{path: "/more"}, {path')
        scene.say(POLICY.replace("RULES", more))
        ours = [scene.stream(where, api) for where in (node.frontend, node.ground.outside())]
        kept = [scene.stream(where, api, "/more") for where in (node.frontend, node.ground.outside())]
        scene.say(POLICY.replace("RULES", more.replace(', {path: "/stream"}', "")))
        scene.both_end(*ours)
        assert all(stream.lives() for stream in kept)

    def test_by_request_ends_streams_whose_head_is_no_text(self, scene: Scene, family: int) -> None:
        """Envoy's reports of what runs repeat what it says of itself, and they must be read all the same."""
        api, node = scene.node.api.ips[family], scene.node
        more = L7.replace("{path", '{path: "/more"}, {path')
        scene.say(POLICY.replace("RULES", more))
        names = (b"X-Request-Id", b"User-Agent", b"Referer", b"X-Forwarded-For")
        odd = [scene.stream(node.frontend, api, header=name + b": \xff") for name in names]
        scene.say(POLICY.replace("RULES", more.replace(', {path: "/stream"}', "")))
        scene.both_end(*odd)

    def test_of_what_a_pod_may_reach(self, scene: Scene, family: int) -> None:
        """Outside, and on the node itself, there is no program at the other end."""
        node = scene.node
        outside, own = node.ground.outside(), node.node
        with ExitStack() as stack:
            talks = []
            for where, ip in ((outside, outside.ips[family]), (own, ("10.200.0.1", "fd00:200::1")[family])):
                create = partial(socket.create_server, ("::", 7001), family=socket.AF_INET6, dualstack_ipv6=True)
                listener = stack.enter_context(netns.run_in(where.path, create))
                dial = partial(socket.create_connection, (str(ip), 7001), 20)
                client = stack.enter_context(netns.run_in(node.frontend.path, dial))
                server = stack.enter_context(listener.accept()[0])
                server.settimeout(20)
                talks.append(Talk(client, server))
            assert all(talk.lives() for talk in talks)
            egress = OPEN[: OPEN.index("  ingress:")].replace("name: policy", "name: egress")
            egress = egress.replace("app: api-server", "app: frontend")
            path = node.write("egress", egress + "  egress: [{}]\n")
            try:
                scene.both_end(*talks)
            finally:
                path.unlink()
                node.until("all is as it was", lambda: node.ok() and len(node.status()["problems"]) == 0)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_loosening_ends_nothing(scene: Scene, family: int) -> None:
    api, node = scene.node.api.ips[family], scene.node
    direct = [scene.talk(node.frontend, api), scene.talk(node.ground.outside(), api)]
    one = POLICED[POLICED.index("  - fromEndpoints") : POLICED.index("  - fromEntities")]
    scene.say(OPEN + one.replace("app: frontend", "app: backend"))
    scene.say(OPEN + "  - fromEntities: [all]\n")
    assert all(talk.lives() for talk in direct)
    scene.say(POLICED)
    streams = [scene.stream(node.frontend, api), scene.stream(node.ground.outside(), api)]
    scene.say(POLICED.replace('{path: "/stream"}', '{path: "/stream"}, {path: "/more"}'))
    scene.say(OPEN)
    (node.policies / "policy.yaml").rename(node.policies / "policy.off")
    node.until("it is lifted", lambda: node.status()["policies"]["enforced"] == 0)
    node.until("all is settled", node.ok)
    assert all(stream.lives() for stream in streams)
    (node.policies / "policy.off").rename(node.policies / "policy.yaml")
    node.until("it is back", lambda: node.status()["policies"]["enforced"] == 1)
    assert all(stream.lives() for stream in streams)
