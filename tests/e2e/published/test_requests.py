"""Who asks for a published port from outside goes through Envoy where a rule by request covers it."""

from __future__ import annotations

import socket
from contextlib import closing
from ipaddress import ip_address
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Capture, Ground
from lockgate.tests.e2e.live_node import DENIED, GLANCE, OK, Line, Web, fetch
from lockgate.tests.e2e.published.ground import ASKS, HTTP, NODE, OTHER, PLAIN, ask, publish
from lockgate.tests.e2e.wire import ACK, FIN, PSH, RST, TCP, ip, tcp


def test_requests_from_outside(ground: Ground, outside: Outside) -> None:
    publish(ground)
    assert ask(ground, "/shut") == DENIED
    assert ask(ground, "/any", PLAIN) == OK
    with Line(outside, NODE, HTTP) as line:
        assert [str(line.ask(path)) for path in ("/open", "/shut", "/open")] == [OK, DENIED, OK]
    me = str(outside.ips[0])
    assert set(ground.seen()) == {(me, "/any"), (me, "/open")}

    def denied() -> str:
        return str(ground.node.lockgate("flows", "--verdict", "denied", "-o", "json").out)

    ground.node.until("it is told", lambda: all(word in denied() for word in ('"/shut"', "default/published", me)))


def test_who_is_not_allowed(ground: Ground, outside: Outside) -> None:
    publish(ground)
    ground.webs[0].seen.clear()
    for port in (HTTP, PLAIN):
        with pytest.raises(TimeoutError):
            Line(outside, NODE, port, 3 * GLANCE, source=OTHER)
    assert ground.seen() == []


def test_much_of_it(ground: Ground, outside: Outside) -> None:
    """Many bytes each way, in segments of every size, with the answers' checksums right."""
    publish(ground)
    path = "/open"
    body = bytes(range(256)) * 40_000

    def talk() -> bytes:
        with socket.create_connection((NODE, HTTP), 20) as made:
            made.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (path.encode(), len(body))
            )
            made.sendall(body)
            return b"".join(iter(lambda: made.recv(65536), b""))

    assert netns.run_in(outside.path, talk).startswith(b"HTTP/1.1 200")


def test_over_ipv6(ground: Ground, outside: Outside) -> None:
    """The translation is written by hand: the engine of this test does none for IPv6 unless it is told to."""
    engine, port, node = ground.engine, 18090, "2001:db8::1"
    engine.docker("network", "create", "--ipv6", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64", "six")
    try:
        container = engine.container("published", "--label", "app=published", "--network", "six")
        ground.serve(container)
        ground.known("default/published")
        at = engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "published")
        for own, there in ((port, 8080), (port + 1, 8081)):
            rule = ["-d", node, "-p", "tcp", "--dport", str(own), "-j", "DNAT", "--to-destination", f"[{at}]:{there}"]
            engine.run(["ip6tables", "-t", "nat", "-A", "PREROUTING", *rule])
        ground.node.becomes(OK, lambda: fetch(outside, node, port + 1, patience=GLANCE))
        ground.node.becomes(OK, lambda: fetch(outside, node, port, "/open", patience=GLANCE))
        assert fetch(outside, node, port, "/shut") == DENIED
        assert {client for client, _ in ground.seen()} == {str(outside.ips[1])}
    finally:
        engine.run(["ip6tables", "-t", "nat", "-F", "PREROUTING"])
        engine.docker("rm", "-f", "published")
        engine.docker("network", "rm", "six")


def test_segments_out_of_nowhere(ground: Ground, outside: Outside) -> None:
    """Conntrack takes up a connection in the middle; nobody carries it."""
    container = publish(ground)
    ground.webs[0].seen.clear()
    source, node = outside.ips[0], ip_address(NODE)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for number, flags in enumerate((ACK, PSH | ACK, FIN | ACK, RST | ACK, 0, 0xFF)):
                segment = tcp(source, node, 50000 + number, HTTP, flags, data=b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
                raw.sendto(ip(source, node, TCP, segment), (NODE, 0))

    with closing(Capture(container)) as arrived:
        netns.run_in(outside.path, send)
        assert ask(ground, "/shut") == DENIED
        assert 8080 not in arrived.ports
    assert ground.seen() == []


def test_what_a_container_asks_of_the_outside(ground: Ground, outside: Outside) -> None:
    """The engine gives it the node's address on its way, and the answers theirs."""
    asks = cast(Namespace, ground.engine.container("asks", "--label", "app=asks"))
    ground.known("default/asks")
    ground.node.write("asks", ASKS)
    with closing(Web(outside, 80)) as web:
        there = outside.ips[0]
        ground.node.becomes(DENIED, lambda: fetch(asks, there, 80, "/shut", patience=GLANCE))
        assert fetch(asks, there, 80, "/open", patience=3 * GLANCE) == OK
        assert web.clients() == {NODE}
    (ground.node.policies / "asks.yaml").unlink()
