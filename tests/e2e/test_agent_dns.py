"""Names: real questions through the node's DNS proxy, and what becomes of connections to the addresses they bring."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, ip_address

import dns.message
import dns.rcode
import pytest
from lockgate.agent.inspection.client import ask
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import CLOSED, DENIED, OK, PATIENCE, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.name_server import NameServer

# For requests the prefix and each name have a path of their own, so a connection tells whose rules it is judged by.
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "**.example.com"}]}}]
  - toCIDR: [198.51.100.0/24]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /prefix}]}}]
  - toFQDNs: [{matchPattern: "*.open.example.com"}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /name}, {path: /prefix}]}}]
  - toFQDNs: [{matchName: marked.example.com}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /prefix, headerMatches: [{name: x-marked, value: "yes", mismatch: ADD}]}]}
"""
# Asks as fast as it can, by one socket or by thirty connections: where, whether by TCP, what.
FLOOD = """
import selectors, socket, sys
there, tcp, wire = (sys.argv[1], 53), int(sys.argv[2]), bytes.fromhex(sys.argv[3])
if not tcp:
    asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    asking.connect(there)
    while True:
        try:
            asking.send(wire)
        except OSError:
            pass
many = (len(wire).to_bytes(2, "big") + wire) * 500
asking = selectors.DefaultSelector()
def another():
    made = socket.create_connection(there)
    made.setblocking(False)
    asking.register(made, selectors.EVENT_READ | selectors.EVENT_WRITE, [b""])
for _ in range(30):
    another()
while True:
    for key, ready in asking.select():
        try:
            if ready & selectors.EVENT_READ and not key.fileobj.recv(65536):
                raise ConnectionError
            if ready & selectors.EVENT_WRITE:
                key.data[0] = key.data[0] or many
                key.data[0] = key.data[0][key.fileobj.send(key.data[0]) :]
        except OSError:
            asking.unregister(key.fileobj)
            key.fileobj.close()
            another()
"""
HOUR = 3600
ADDRESSES = [ip_address(f"198.51.100.{last}") for last in range(10, 30)]


class Names:
    """The node, and the server that is asked through it. Each test takes addresses of its own."""

    def __init__(self, node: LiveNode) -> None:
        self.node = node
        self.outside = node.ground.outside()
        self._addresses = iter(ADDRESSES)
        for address in ADDRESSES:
            self.outside.add_address(address)
        self.web = node.webs["outside"] = node.web_at(self.outside, 80)
        self.server = NameServer(self.outside)

    def address(self) -> IPv4Address:
        address = next(self._addresses)
        assert isinstance(address, IPv4Address)
        return address

    def resolve(self, name: str, tcp: bool = False, patience: float = PATIENCE) -> dns.message.Message:
        """A question of the frontend's. Once it is answered, what the answer brings is in force."""
        query = dns.message.make_query(name, "A")
        kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        asking = netns.run_in(self.node.frontend.path, partial(socket.socket, socket.AF_INET, kind))
        with asking:
            asking.settimeout(patience)
            asking.connect((str(self.outside.ips[0]), 53))
            wire = query.to_wire()
            if not tcp:
                asking.send(wire)
                return dns.message.from_wire(asking.recv(65535))
            asking.sendall(len(wire).to_bytes(2, "big") + wire)
            with asking.makefile("rb") as received:
                return dns.message.from_wire(received.read(int.from_bytes(received.read(2), "big")))

    def brings(self, name: str, *addresses: IPv4Address, ttl: int = HOUR, tcp: bool = False) -> None:
        """The frontend learns that the name has these addresses."""
        self.server.zone[name] = ttl, tuple(map(str, addresses))
        assert len(self.resolve(name, tcp).answer[0]) == len(addresses)

    def line(self, address: IPv4Address) -> Line:
        return Line(self.node.frontend, address, 80)

    def fetch(self, address: IPv4Address, path: str) -> str:
        return fetch(self.node.frontend, address, 80, path)

    def becomes(self, outcome: str, address: IPv4Address, path: str) -> None:
        self.node.becomes(outcome, lambda: self.fetch(address, path))


@pytest.fixture(scope="module")
def names() -> Iterator[Names]:
    with live_node(start=False) as node:
        for path in node.policies.iterdir():
            path.unlink()
        node.write("names", POLICY)
        config = node.folder / "config.yaml"
        config.write_text(json.dumps({"dns_min_ttl": 1}))
        found = Names(node)
        try:
            node.start_agent("--config", config)
            node.until("the uplink is attached", lambda: node.status()["datapath"]["uplinks"] == 1)
            yield found
        finally:
            found.server.close()


def test_a_name_opens_its_address_and_no_question_for_another_passes(names: Names) -> None:
    address, other = names.address(), names.address()
    assert names.fetch(address, "/name") == DENIED
    names.brings("one.open.example.com", address)
    assert names.fetch(address, "/name") == OK
    assert names.fetch(other, "/name") == DENIED
    names.server.zone["one.example.org"] = HOUR, (str(other),)
    assert names.resolve("one.example.org").rcode() == dns.rcode.REFUSED
    assert "one.example.org" not in names.server.names()


def test_a_connection_goes_on_when_a_name_takes_nothing_from_it(names: Names) -> None:
    address = names.address()
    with names.line(address) as line:
        assert str(line.ask("/prefix")) == OK
        names.brings("two.open.example.com", address)
        assert names.fetch(address, "/name") == OK
        assert str(line.ask("/prefix")) == OK
        assert str(line.ask("/name")) == DENIED, "it is who it was when it was made"


def test_a_connection_ends_when_a_name_has_its_requests_changed(names: Names) -> None:
    address, other = names.address(), names.address()
    with names.line(address) as line, names.line(other) as apart:
        assert str(line.ask("/prefix")) == str(apart.ask("/prefix")) == OK
        names.brings("marked.example.com", address)
        assert str(line.ask("/prefix")) == CLOSED
        assert str(apart.ask("/prefix")) == OK
    names.web.seen.clear()
    assert names.fetch(address, "/prefix") == OK
    assert [each.headers["x-marked"] for each in names.web.seen] == ["yes"]


def test_an_address_keeps_its_name_while_it_is_in_use(names: Names) -> None:
    address, idle = names.address(), names.address()
    names.brings("brief.open.example.com", address, idle, ttl=1)
    with names.line(address) as line:
        assert str(line.ask("/name")) == OK
        names.becomes(DENIED, idle, "/name")
        assert str(line.ask("/name")) == OK
        assert names.fetch(address, "/name") == OK
    names.becomes(DENIED, address, "/name")


def test_a_connection_ends_when_its_address_loses_the_name_that_let_it_in(names: Names) -> None:
    """A name has so many addresses at most: a new answer pushes out what would be over first, in use or not."""
    address, kept = names.address(), names.address()
    names.brings("many.open.example.com", address, ttl=HOUR)
    names.brings("kept.open.example.com", kept, ttl=HOUR)
    with names.line(address) as line, names.line(kept) as other:
        assert str(line.ask("/name")) == str(other.ask("/name")) == OK
        new = [ip_address((10 << 24) + number) for number in range(1, 1001)]
        names.brings(
            "many.open.example.com", *(ip for ip in new if isinstance(ip, IPv4Address)), ttl=2 * HOUR, tcp=True
        )
        assert str(line.ask("/name")) == CLOSED
        assert names.fetch(address, "/name") == DENIED
        assert names.fetch(address, "/prefix") == OK
        assert str(other.ask("/name")) == OK


def alone(address: IPv4Address, out_of_the_prefix: bool) -> str:
    """The policy with a rule about the address alone, to which the one about its prefix may still apply."""
    policy = POLICY
    if out_of_the_prefix:
        all_but_it = f"toCIDRSet: [{{cidr: 198.51.100.0/24, except: [{address}/32]}}]"
        policy = policy.replace("toCIDR: [198.51.100.0/24]", all_but_it)
    ports = '{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /alone}]}}'
    return f"{policy}  - toCIDR: [{address}/32]\n    toPorts: [{ports}]\n"


def test_a_later_agent_knows_who_made_a_connection(names: Names) -> None:
    """What an agent let go on counts as who it was, and the next one must not take it for who is there now."""
    node, address, other = names.node, names.address(), names.address()
    with names.line(address) as line, names.line(other) as apart:
        assert str(line.ask("/prefix")) == str(apart.ask("/prefix")) == OK
        node.write("names", alone(address, False))
        names.becomes(OK, address, "/alone")
        assert str(line.ask("/prefix")) == OK, "the prefix's rule is about both"
        node.end_agent(signal.SIGKILL)
        assert str(line.ask("/prefix")) == OK
        node.start_agent("--config", node.folder / "config.yaml")
        assert str(line.ask("/prefix")) == str(apart.ask("/prefix")) == OK
        try:
            node.write("names", alone(address, True))
            names.becomes(DENIED, address, "/prefix")
            assert names.fetch(address, "/alone") == OK
            # Only when the maps hold the change the connection is ended, and it is they that deny others.
            node.until("it is ended", lambda: str(line.ask("/prefix")) == CLOSED)
            assert str(apart.ask("/prefix")) == OK
        finally:
            node.write("names", POLICY)
        names.becomes(OK, address, "/prefix")


def test_a_later_agent_ends_what_changed_while_none_ran(names: Names) -> None:
    node, address, other = names.node, names.address(), names.address()
    with names.line(address) as line, names.line(other) as apart:
        assert str(line.ask("/prefix")) == str(apart.ask("/prefix")) == OK
        node.end_agent(signal.SIGKILL)
        node.write("names", alone(address, True))
        assert str(line.ask("/prefix")) == OK, "nobody has changed anything yet"
        node.start_agent("--config", node.folder / "config.yaml")
        try:
            assert str(line.ask("/prefix")) == CLOSED
            assert str(apart.ask("/prefix")) == OK
            assert names.fetch(address, "/alone") == OK
            assert names.fetch(address, "/prefix") == DENIED
        finally:
            node.write("names", POLICY)
        names.becomes(OK, address, "/prefix")


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_pod_that_asks_without_end_leaves_room_to_others(names: Names, tcp: bool) -> None:
    """Questions that are refused, which wait for no server's answer."""
    node = names.node
    flooded = POLICY.replace("name: names", "name: flooded").replace("app: frontend", "app: intruder")
    path = node.write("flooded", flooded)
    node.until("it is in force", lambda: node.ok() and node.status()["policies"]["enforced"] == 2)
    names.server.zone["flood.example.com"] = HOUR, ("192.0.2.9",)
    wire = dns.message.make_query("flood.example.org", "A").to_wire()
    flood = node.intruder.popen([sys.executable, "-c", FLOOD, str(names.outside.ips[0]), str(int(tcp)), wire.hex()])
    try:
        before = refused_questions(node)
        node.until("it asks", lambda: refused_questions(node) > before + 300)
        for way in (False, True):
            for _ in range(10):
                assert names.resolve("flood.example.com", way, patience=5.0).answer
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()
        path.unlink()
        node.until("all is as it was", lambda: node.ok() and node.status()["policies"]["enforced"] == 1)


def refused_questions(node: LiveNode) -> int:
    return int(ask(node.run_dir, "/v1/dns")["counters"]["refused"])
