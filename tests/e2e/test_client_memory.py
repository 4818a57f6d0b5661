"""One client that lets Envoy hold as much as it takes, at servers that take nothing: it loses its connections before
others are refused."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from hpack import Encoder
from lockgate.tests.e2e.field import L7, Field, field
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.e2e.test_envoy_memory import MB, allocated
from lockgate.tests.e2e.test_http2_tricks import (
    CONTINUATION,
    END_HEADERS,
    HEADERS,
    PREFACE,
    SETTINGS,
    frame,
    request,
)

ATTACKER, OTHER = 0, 1  # addresses of the same pod, which are two clients
SMALL = 1 << 14  # of the server's socket: what the kernel holds is not Envoy's
ASKS = b"GET /allowed HTTP/1.1\r\nHost: x\r\n"
QUICK = ASKS + b"Connection: close\r\n\r\n"


def takes_little(connection: socket.socket) -> None:
    """A server that answers QUICK, and takes only the head of anything else. To that of HTTP/1 it sends without end."""
    if (data := connection.recv(SMALL)).startswith(PREFACE):
        connection.sendall(frame(SETTINGS, 0, 0, b""))
    elif b"Content-Length" in data:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))
    elif data:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        connection.shutdown(socket.SHUT_WR)


@contextmanager
def attacked(heap: int) -> Iterator[Field]:
    """A node whose Envoy may have so many bytes, with such a server."""
    with field(f"envoy_heap_mb: {heap // MB}\n") as made:
        made.record.close()
        server = TcpServer(made.server, L7, takes_little, window=SMALL)
        try:
            yield made
        finally:
            server.close()


def bodies(connection: socket.socket) -> None:
    """All that one connection of HTTP/1 can have Envoy hold, both ways."""
    connection.settimeout(0.1)
    head = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 450) for number in range(200))
    connection.sendall(ASKS + b"Content-Length: 1000000000\r\n" + head + b"\r\n")
    while True:
        connection.sendall(bytes(1 << 16))


def heads(connection: socket.socket) -> None:
    """Heads of 90 KB each, of as many streams as are taken, written with a few bytes."""
    connection.settimeout(5)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    packer = Encoder()
    large = [*request(), *[(b"x-large", b"b" * 3900)] * 23]
    for stream in range(1, 2000, 2):
        block = packer.encode(large)
        assert len(block) < 2 * SMALL
        connection.sendall(
            frame(HEADERS, 0, stream, block[:SMALL]) + frame(CONTINUATION, END_HEADERS, stream, block[SMALL:])
        )


def served(ground: Field) -> bool:
    """Whether another client's connection that comes now is."""
    return ground.say(OTHER, QUICK, 10.0).startswith(b"HTTP/1.1 200")


def turned_away(ground: Field) -> int:
    """Connections that were not taken or not kept."""
    return sum(ground.node.stat(f"lockgate_connections_{how}$") for how in ("refused", "ended"))


# What a worker takes between two looks at the heap must be little of it: one read of heads can be 20 MB.
@pytest.mark.parametrize(
    ("fill", "connections", "at_once", "heap"), [(bodies, 230, 8, 100 * MB), (heads, 30, 4, 500 * MB)]
)
def test_others_are_served(fill: Callable[[socket.socket], None], connections: int, at_once: int, heap: int) -> None:
    open_ones = iter(range(connections))
    with attacked(heap) as ground, ExitStack() as held:

        def attack() -> None:
            for _ in open_ones:
                with suppress(OSError):  # Envoy may have had enough
                    fill(held.enter_context(ground.connect(ATTACKER)))

        attackers = [threading.Thread(target=attack) for _ in range(at_once)]
        for each in attackers:
            each.start()
        while any(each.is_alive() for each in attackers):
            assert served(ground)
        assert served(ground)
        assert turned_away(ground) > 0
        assert allocated(ground) > heap // 2
