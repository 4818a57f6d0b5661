"""Ports that conntrack has to change, as two connections would look the same to the container."""

from __future__ import annotations

import socket
from functools import partial

from lockgate.agent.playground import Outside
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Ground
from lockgate.tests.e2e.published.ground import HTTP, NODE, publish


def test_ports_that_conntrack_gives_away(ground: Ground, outside: Outside) -> None:
    """To the container the client's own connection and Envoy's differ by their ports. Where they would not, conntrack
    changes one of them."""
    publish(ground)
    node = ground.node.node
    kept = node.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).stdout.split()
    only = 40001
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
