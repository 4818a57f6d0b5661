"""Ports that conntrack has to change, as two connections would look the same to the container."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from functools import partial
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside, Pod
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.live_node import GLANCE, OK, fetch
from lockgate.tests.e2e.published.ground import HTTP, NODE, OPEN, PLAIN, PODS, ask, publish, say

MUTE = """  egress: [{}]
"""


def test_ports_that_conntrack_gives_away(ground: Ground, outside: Outside) -> None:
    """To the container the client's own connection and Envoy's differ by their ports. Where they would not, conntrack
    changes one of them."""
    publish(ground)
    node = ground.node.node
    kept = node.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).stdout.split()
    only = 20001  # nobody else's: sockets outside take theirs from 32768 on
    node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={only} {only}"], check=True)

    def line(port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(5)
        made.bind((str(outside.ips[0]), port))
        made.connect((NODE, HTTP))
        return made

    def got(made: socket.socket) -> bytes:
        made.sendall(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
        return made.recv(12)

    try:
        for ports in ([only], [only + 1, only]):  # Envoy's own is the later one, then the earlier one
            made = [netns.run_in(outside.path, partial(line, ports[0]))]
            assert got(made[0]) == b"HTTP/1.1 200"
            for port in ports[1:]:
                made.append(netns.run_in(outside.path, partial(line, port)))
                node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={only} {only + 9}"], check=True)
                assert got(made[-1]) == b"HTTP/1.1 200"
            for each in made:
                each.close()
    finally:
        node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={' '.join(kept)}"], check=True)


def line_from(client: Namespace, ip: object, port: int, to: tuple[object, int]) -> socket.socket:
    """A connection from a port of the client's own choice."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.settimeout(5)
    made.bind((str(ip), port))
    made.connect((str(to[0]), to[1]))
    return made


def asked(made: socket.socket, *paths: str) -> list[bytes]:
    """The statuses of requests on one connection."""

    def status(path: str) -> bytes:
        made.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        return made.recv(4096)[9:12]

    return [status(path) for path in paths]


@pytest.mark.parametrize("name", ["outside", "asks"])
def test_one_port_of_the_client_for_both_ways(ground: Ground, outside: Outside, name: str) -> None:
    """Published and over a route to the container's own address: translated, the two would be the same. One begins
    while the other lives, or when it has just ended."""
    node = ground.node
    container = publish(ground)
    outside.run(["ip", "route", "replace", f"{container.ip}/32", "via", NODE], check=True)
    client: Namespace = outside if name == "outside" else node.ground.pod(name, labels={"app": name})
    address = outside.ips[0] if isinstance(client, Outside) else cast(Pod, client).ipv4
    ways = [(NODE, HTTP), (container.ip, 8080)]
    try:
        if isinstance(client, Pod):
            node.list_pods()
            say(ground, PODS)
            node.becomes(OK, lambda: fetch(client, container.ip, 8080, "/open", patience=GLANCE))
        for port, kept, order in ((45000, True, 1), (45001, True, -1), (45002, False, 1), (45003, False, -1)):
            with ExitStack() as stack:
                lines = []
                for way in ways[::order]:
                    made = netns.run_in(client.path, partial(line_from, client, address, port, way))
                    lines.append(stack.enter_context(made))
                    assert asked(made, "/open", "/shut", "/open") == [b"200", b"403", b"200"], (way, port)
                    if not kept:
                        made.close()
                if kept:
                    for made in lines:
                        assert asked(made, "/shut", "/open") == [b"403", b"200"]
        assert {each for each, _ in ground.seen()} == {str(address)} | {str(outside.ips[0])}
    finally:
        outside.run(["ip", "route", "del", f"{container.ip}/32"])
        if isinstance(client, Pod):
            node.remove(client)
            node.list_pods()


def test_both_ways_past_envoy(ground: Ground, outside: Outside) -> None:
    """The container answers though it may ask nobody of its own: its answers belong to what was judged."""
    container = publish(ground)
    say(ground, OPEN + MUTE)
    outside.run(["ip", "route", "replace", f"{container.ip}/32", "via", NODE], check=True)
    try:
        ground.node.becomes(OK, lambda: ask(ground, "/shut"))
        for way in ((NODE, PLAIN), (container.ip, 8081)):
            with netns.run_in(outside.path, partial(line_from, outside, outside.ips[0], 45010, way)) as made:
                assert asked(made, "/any", "/any") == [b"200", b"200"], way
    finally:
        outside.run(["ip", "route", "del", f"{container.ip}/32"])
