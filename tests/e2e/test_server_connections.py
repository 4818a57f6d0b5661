"""Servers of HTTP/2 that have each request want a connection of its own, until Envoy has no descriptor left for one: it
hung then, and was killed after half a minute in which nobody was served."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import connections_with
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import OK, LiveNode, fetch, live_node
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.e2e.test_http2_tricks import PREFACE, SETTINGS, asks, frame, request

GOAWAY, MAX_CONCURRENT_STREAMS = 7, 3
DESCRIPTORS = 856
MOST = connections_with(DESCRIPTORS)
STREAMS, CLIENTS = 128, 10
SAYS = {
    "one request at a time": frame(SETTINGS, 0, 0, struct.pack("!HI", MAX_CONCURRENT_STREAMS, 1)),
    "no further request": frame(SETTINGS, 0, 0, b"") + frame(GOAWAY, 0, 0, struct.pack("!II", (1 << 31) - 1, 0)),
}


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        made.webs.pop("api-server").close()
        few = ("prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}")
        made.agent = made.node.popen([*few, *made.command()], start_new_session=True)
        made.until("the agent is ready", made.ok)
        yield made


@pytest.mark.parametrize("says", SAYS)
def test_others_are_served(node: LiveNode, says: str) -> None:
    def serve(connection: socket.socket) -> None:
        while data := connection.recv(1 << 16):
            if data.startswith(PREFACE):
                connection.sendall(SAYS[says])
            elif data.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    pid, (client, other) = node.envoy_pid(), node.api.ips
    server = TcpServer(node.api, 80, serve)
    try:
        with ExitStack() as held:
            for _ in range(CLIENTS):
                connection = held.enter_context(
                    netns.run_in(node.frontend.path, lambda: socket.create_connection((str(client), 80), 5))
                )
                connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
                for at in range(STREAMS):
                    connection.sendall(asks(request(b"/api/v1/users"), stream=2 * at + 1))
                    connection.settimeout(0.002)
                    with suppress(TimeoutError):
                        connection.recv(1 << 16)
                assert fetch(node.frontend, other, 80, "/api/v1/users", patience=5.0) == OK
            node.until("there is no room", lambda: len(server.connections) >= MOST)
            assert len([*Path(f"/proc/{pid}/fd").iterdir()]) < DESCRIPTORS
        assert node.envoy_pid() == pid
    finally:
        server.close()
