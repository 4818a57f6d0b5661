"""A user of the node at the port of a proxy that is away, or with a pod's own address, is given no packet."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lockgate.redirect.kernel import netns
from lockgate.redirect.reason import Reason
from lockgate.tests.e2e.datapath_node import GLANCE, L7, SHUT, USUAL, Node, fetch, ingress, rule, tcp

NOBODY = 65534
CLIENTS_PORT = 23457

# Takes whoever connects, and answers as an HTTP server. Its words: "ready", then "taken" for each.
LISTENER = """
import select, socket, sys
listeners = [socket.create_server((address, 15001), family=family) for address, family in
             (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))]
print("ready", flush=True)
while True:
    for each in select.select(listeners, [], [])[0]:
        taken = each.accept()[0]
        print("taken", flush=True)
        taken.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\nimpostor")
"""

# Asks the client's port from the server's address, so that the client's SYN answers it (RFC 9293, 3.5).
OPENER = """
import select, socket, sys
server, client = (sys.argv[1], int(sys.argv[2])), (sys.argv[3], int(sys.argv[4]))
opens = socket.socket(socket.AF_INET6)
opens.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: linux/in6.h
opens.bind(server)
opens.setblocking(False)
opens.connect_ex(client)
print("ready", flush=True)
select.select([], [opens], [])
if not opens.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
    print("taken", flush=True)
"""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("foreign-sockets"))
    try:
        yield node
    finally:
        node.close()


@contextmanager
def impostor(node: Node, code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = ["/usr/bin/python3", "-c", code, *map(str, arguments)]
    run = subprocess.Popen
    process = node.inside(
        lambda: run(command, stdout=subprocess.PIPE, text=True, cwd="/", user=NOBODY, group=NOBODY, extra_groups=[])
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def words(process: subprocess.Popen[str]) -> str:
    process.kill()
    assert process.stdout is not None
    return process.stdout.read()


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_who_has_the_port_of_an_envoy_that_is_away(node: Node, family: int) -> None:
    node.enforce(server=USUAL)
    with impostor(node, LISTENER) as process:
        before = node.dropped(Reason.NO_PROXY)
        with pytest.raises(TimeoutError):
            fetch(node.client, node.server.ips[family], L7, GLANCE)
        assert node.dropped(Reason.NO_PROXY) > before
        assert words(process) == ""


def test_who_opens_a_connection_with_a_pods_address(node: Node) -> None:
    """The SYN of a connection that an L7 rule covers is not the answer to one of theirs."""
    node.enforce(server=ingress(rule("client", tcp(SHUT), http=True)))
    node.start_envoy()
    server, client = node.server.ips[1], node.client.ips[1]
    try:
        with impostor(node, OPENER, server, SHUT, client, CLIENTS_PORT) as process:
            with netns.run_in(node.client.path, lambda: socket.socket(socket.AF_INET6)) as asks:
                asks.settimeout(GLANCE)
                asks.bind((str(client), CLIENTS_PORT))
                with pytest.raises(TimeoutError):
                    asks.connect((str(server), SHUT))
            assert words(process) == ""
    finally:
        node.stop_envoy()
