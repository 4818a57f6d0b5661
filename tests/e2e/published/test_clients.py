"""Who else may ask for a published port: the node, its pods, other containers, a proxy."""

from __future__ import annotations

import socket
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns
from lockgate.redirect.routing import MARK_UPSTREAM
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, fetch
from lockgate.tests.e2e.published.ground import ASKS, HTTP, NODE, PLAIN, PODS, publish, say

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


def test_from_another_network_of_the_engine(ground: Ground) -> None:
    """Docker lets nothing pass; Podman gives who asks the node's address, and nobody knows who it is."""
    engine = ground.engine
    publish(ground)
    engine.docker("network", "create", "beyond")
    try:
        there = cast(Namespace, engine.container("beyond", "--network", "beyond", "--label", "app=asks"))
        ground.known("default/beyond")
        say(ground, PODS)
        ground.webs[0].seen.clear()
        assert [fetch(there, NODE, HTTP, path, patience=GLANCE) for path in ("/open", "/shut")] == [DROPPED, DROPPED]
        assert ground.seen() == []
    finally:
        engine.docker("rm", "-f", "beyond")
        engine.docker("network", "rm", "beyond")
