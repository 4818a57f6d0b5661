"""Who else may ask for a published port: the node, its pods, other containers, a proxy."""

from __future__ import annotations

import socket
from functools import partial
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns
from lockgate.redirect.routing import MARK_UPSTREAM
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line, fetch
from lockgate.tests.e2e.published.ground import ASKS, CLOSED_TO_IT, HTTP, NODE, PLAIN, PODS, publish, say

IP_TRANSPARENT = 19


def test_from_the_node_and_its_pods(ground: Ground) -> None:
    """A process of the node is let in everywhere; a pod is judged like everybody else."""
    node = ground.node
    container = publish(ground)
    assert fetch(node.node, NODE, HTTP, "/shut", patience=3 * GLANCE) == OK
    pod, stranger = (node.ground.pod(name, labels={"app": name}) for name in ("asks", "stranger"))
    try:
        node.list_pods()
        say(ground, PODS)
        node.becomes(OK, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        ground.webs[0].seen.clear()
        assert fetch(pod, NODE, HTTP, "/open", patience=3 * GLANCE) == OK
        assert fetch(pod, NODE, HTTP, "/shut", patience=3 * GLANCE) == DENIED
        assert fetch(stranger, NODE, HTTP, "/open", patience=GLANCE) == DROPPED
        assert ground.seen() == [(str(pod.ipv4), "/open")]
    finally:
        for each in (pod, stranger):
            node.remove(each)
        node.list_pods()


def test_what_a_proxy_asks_is_not_led_elsewhere(ground: Ground, outside: Outside) -> None:
    """A proxy that took the node for the one that was asked would be led to the container, of which it has judged
    nothing. To the kernel the test's own socket is a proxy's."""
    container = publish(ground)
    ground.webs[0].seen.clear()

    def ask_as_proxy(address: str, port: int) -> bytes:
        with socket.socket() as proxy:
            proxy.settimeout(3 * GLANCE)
            proxy.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_UPSTREAM)
            proxy.bind((str(outside.ips[0]), 0))
            proxy.connect((address, port))
            proxy.sendall(b"GET /shut HTTP/1.1\r\nHost: x\r\n\r\n")
            return proxy.recv(12)

    with pytest.raises(TimeoutError):
        netns.run_in(ground.node.node.path, lambda: ask_as_proxy(NODE, HTTP))
    assert ground.seen() == []
    assert netns.run_in(ground.node.node.path, lambda: ask_as_proxy(container.ip, 8080)) == b"HTTP/1.1 200"
    assert netns.run_in(ground.node.node.path, lambda: ask_as_proxy(NODE, PLAIN)) == b"HTTP/1.1 200"


def test_a_pod_with_a_rule_by_request_about_the_node(ground: Ground) -> None:
    """Envoy has the pod's connection to the node, and to no other; the container is not reached by it."""
    node = ground.node
    container = publish(ground)
    pod = node.ground.pod("asks", labels={"app": "asks"})
    try:
        node.list_pods()
        say(ground, PODS)
        node.becomes(OK, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        node.write("asks", ASKS.replace("world", "host, world").replace('"80"', f'"{HTTP}"').replace("/open", "/.*"))
        node.becomes(DROPPED, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        ground.webs[0].seen.clear()
        assert fetch(pod, NODE, HTTP, "/shut", patience=3 * GLANCE) != OK
        assert ground.seen() == []
    finally:
        (node.policies / "asks.yaml").unlink(missing_ok=True)
        node.remove(pod)
        node.list_pods()


def test_from_another_network_of_the_engine(ground: Ground, beyond: tuple[Namespace, Namespace]) -> None:
    """It is judged as who it is, also where the node's address stands in its packets."""
    node = ground.node
    asks, stranger = beyond
    say(ground, PODS)
    node.becomes(OK, lambda: fetch(asks, NODE, HTTP, "/open", patience=GLANCE))
    ground.webs[0].seen.clear()
    assert [fetch(asks, NODE, HTTP, path, patience=3 * GLANCE) for path in ("/open", "/shut")] == [OK, DENIED]
    assert fetch(asks, NODE, PLAIN, "/any", patience=3 * GLANCE) == OK
    for port in (HTTP, PLAIN):
        assert fetch(stranger, NODE, port, "/open", patience=GLANCE) == DROPPED
    assert {path for _, path in ground.seen()} == {"/open", "/any"}
    denied = partial(node.lockgate, "flows", "--verdict", "denied", "-o", "json")
    node.until("it is told", lambda: '"default/b-asks"' in denied().out)
    with Line(asks, NODE, HTTP) as through, Line(asks, NODE, PLAIN) as past:
        assert [str(line.ask("/open")) for line in (through, past, through, past)] == [OK] * 4
        say(ground, CLOSED_TO_IT)
        assert [str(line.ask("/open", patience=3 * GLANCE)) for line in (through, past)] == [CLOSED, CLOSED]


def test_from_the_same_network(ground: Ground) -> None:
    """Who asks itself that way is a client like any other."""
    node = ground.node
    container = publish(ground)
    asks = cast(Namespace, ground.engine.container("asks", "--label", "app=asks"))
    ground.known("default/asks")
    say(ground, PODS)
    node.becomes(OK, lambda: fetch(asks, NODE, HTTP, "/open", patience=GLANCE))
    assert [fetch(asks, NODE, HTTP, path, patience=3 * GLANCE) for path in ("/open", "/shut")] == [OK, DENIED]
    assert fetch(asks, NODE, PLAIN, "/any", patience=3 * GLANCE) == OK
    for port in (HTTP, PLAIN):
        assert fetch(cast(Namespace, container), NODE, port, "/open", patience=GLANCE) == DROPPED
    say(ground, PODS.replace("app: asks", "app: published"))
    node.becomes(OK, lambda: fetch(cast(Namespace, container), NODE, HTTP, "/open", patience=GLANCE))
    assert fetch(cast(Namespace, container), NODE, HTTP, "/shut", patience=3 * GLANCE) == DENIED
