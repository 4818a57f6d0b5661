"""What the kernel forgets of a connection while a proxy has yet to answer (it remembers 131,072 of them, and an upgrade
may begin anew) is found again by that answer: the connection goes on, and stays with the proxy. One with a server of
the node's own stays its client's."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial

import dns.message
import dns.rcode
import pytest
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Namespace, Pod
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import PATIENCE, LiveNode, live_node
from lockgate.tests.e2e.name_server import NameServer
from lockgate.tests.e2e.talk import ended, talk
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.forgotten import forget_connections

DENIED = b"GET /denied HTTP/1.1\r\nHost: x\r\n\r\n"
ALLOWED = b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n"
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /allowed}]}}]
"""
PLAIN = POLICY.replace(", rules: {http: [{path: /allowed}]}", "")
# Of the client: anybody may open a connection to it, or nobody.
OPEN = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  ingress: [{fromEntities: [all]}]
"""
SHUT = OPEN.replace("fromEntities: [all]", "")
NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [all]
    toPorts: [{ports: [{port: "80"}]}]
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "**.example.com"}]}}]
  - toEntities: [host]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "**.example.com"}]}}]
"""
TO_THE_NODE = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress: [{toEntities: [host], toPorts: [{ports: [{port: "7000"}]}]}]
"""


class SlowServer(TcpServer):
    """HTTP in a pod: it answers each request with 200 when `go` is set. `asked` says that one waits."""

    def __init__(self, where: Pod, port: int) -> None:
        self.asked, self.go = threading.Event(), threading.Event()
        super().__init__(where, port, self._answer)

    def _answer(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            self.asked.set()
            self.go.wait()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        self.go.set()
        super().close()


class SlowNames(NameServer):
    """It answers no question before `go` is set."""

    def __init__(self, where: Namespace) -> None:
        self.go = threading.Event()
        super().__init__(where)

    def _answer(self, wire: bytes, peer: tuple[str, int], tcp: bool) -> bytes:
        answer = super()._answer(wire, peer, tcp)
        self.go.wait()
        return answer


@pytest.fixture
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        for path in made.policies.iterdir():
            path.unlink()
        yield made


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("client", [OPEN, SHUT], ids=["open client", "client that nobody may ask"])
def test_a_request_that_is_answered_late(node: LiveNode, client: str, family: int) -> None:
    node.webs.pop("api-server").close()
    server = SlowServer(node.api, 80)
    node.write("api", POLICY)
    node.write("client", client)
    node.start_agent()
    there = (str(node.api.ips[family]), 80)
    with closing(server), netns.run_in(node.frontend.path, lambda: socket.create_connection(there, PATIENCE)) as line:
        line.sendall(ALLOWED)
        assert server.asked.wait(PATIENCE)
        time.sleep(0.3)  # until the client has been told that its request has come
        forget_connections(node.settings.pin_dir)
        server.go.set()
        assert line.recv(65536).startswith(b"HTTP/1.1 200")
        line.sendall(DENIED)
        assert line.recv(65536).startswith(b"HTTP/1.1 403")
        line.sendall(ALLOWED)
        assert line.recv(65536).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(
    ("client", "where"),
    [(OPEN, "pod"), (SHUT, "pod"), (SHUT, "node")],
    ids=["open client", "client that nobody may ask", "the node's own server"],
)
def test_a_name_that_is_answered_late(node: LiveNode, client: str, where: str, family: int) -> None:
    """From the same port the client could else ask for anything, past the proxy."""
    server = SlowNames(node.backend if where == "pod" else node.node)
    there = (node.backend.ips if where == "pod" else (NODE_IPV4, NODE_IPV6))[family]
    server.zone["slow.example.com"] = 60, ("198.51.100.7",)
    node.write("names", NAMES)
    node.write("client", client)
    node.start_agent()
    version = (socket.AF_INET, socket.AF_INET6)[family]
    with closing(server), netns.run_in(node.frontend.path, lambda: socket.socket(version, socket.SOCK_DGRAM)) as asking:
        asking.settimeout(PATIENCE)
        asking.connect((str(there), 53))

        def ask(name: str) -> None:
            asking.send(dns.message.make_query(name, "A").to_wire())

        def answer() -> dns.rcode.Rcode:
            return dns.message.from_wire(asking.recv(65535)).rcode()

        ask("slow.example.com")
        node.until("it is asked", lambda: server.names() == ["slow.example.com"])
        forget_connections(node.settings.pin_dir)
        server.go.set()
        assert answer() == dns.rcode.NOERROR
        ask("other.example.org")
        assert answer() == dns.rcode.REFUSED
        assert server.names() == ["slow.example.com"]
        ask("slow.example.com")
        assert answer() == dns.rcode.NOERROR


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_what_a_server_of_the_nodes_own_says_begins_nothing(node: LiveNode, family: int) -> None:
    """Else it would count as the node's, which may ask whom it likes, and no policy would end it."""
    node.write("names", TO_THE_NODE)
    node.start_agent()
    listen = partial(socket.create_server, ("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
    with netns.run_in(node.node.path, listen) as listener:
        listener.settimeout(PATIENCE)
        there = str((NODE_IPV4, NODE_IPV6)[family])
        with talk(node.frontend, there, 7000, listener) as made:
            assert made.lives()
            forget_connections(node.settings.pin_dir)
            made.server.sendall(b"news")
            assert made.client.recv(100) == b"news"
            assert made.lives()
            node.write("names", TO_THE_NODE.replace("7000", "7001"))
            node.until("the client is told", partial(ended, made.client))
            node.until("the server is told", partial(ended, made.server))


def rewrite(node: LiveNode, name: str, policy: str) -> None:
    """Returns when the policy is in force."""
    before = node.status()["agent"]["revision"]
    node.write(name, policy)
    node.until("it is in force", lambda: node.ok() and node.status()["agent"]["revision"] > before)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_what_a_server_says_past_the_proxy_that_a_rule_demands_ends_it(node: LiveNode, family: int) -> None:
    """Else it would count as the server's own, and be nobody's to end."""
    node.webs.pop("api-server").close()
    node.write("client", OPEN)
    node.write("api", PLAIN)
    node.start_agent()
    listen = partial(socket.create_server, ("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
    with netns.run_in(node.api.path, listen) as listener:
        listener.settimeout(PATIENCE)
        with talk(node.frontend, str(node.api.ips[family]), 80, listener) as made:
            assert made.lives()
            forget_connections(node.settings.pin_dir)
            rewrite(node, "api", POLICY)
            made.server.sendall(b"news")
            node.until("the server is told", partial(ended, made.server))
            made.client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                made.client.recv(100)
            made.client.sendall(b"more")
            node.until("the client is told", partial(ended, made.client))
