"""A client's port that was used a moment ago: Envoy closed that connection, and its end stays for a while."""

from __future__ import annotations

import socket

import pytest
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode

USERS, ADMIN = "/api/v1/users", "/api/v1/admin"
PORT = 23456
PATIENCE = 10.0  # seconds; a SYN is sent again after one, and the old end would be kept for sixty


def from_same_port(node: LiveNode, source: IPAddress, ip: IPAddress, path: str) -> int:
    """The status of a request after which Envoy closes the connection."""

    kind = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    with netns.run_in(node.frontend.path, lambda: socket.socket(kind)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.settimeout(PATIENCE)
        client.bind((str(source), PORT))
        client.connect((str(ip), 80))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))  # to the end: Envoy closes first
    return int(answer.split()[1])


@pytest.mark.parametrize("family", [0, 1], ids=["v4", "v6"])
def test_a_port_that_envoy_has_just_closed(shared_node: LiveNode, family: int) -> None:
    source, server = shared_node.frontend.ips[family], shared_node.api.ips[family]
    asked = [from_same_port(shared_node, source, server, path) for path in (USERS, ADMIN, USERS)]
    assert asked == [200, 403, 200]
