"""What of the shared Envoy's memory a connection can hold, with a server that takes nothing, and what is reset when it
runs short. Clients are not counted here; test_client_memory.py is about those that are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder
from lockgate.tests.e2e.field import L7, Field, field, listen
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.e2e.test_http2_tricks import END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, request

MB = 1_000_000
HEAP = 150 * MB
ROOM = 8 * MB  # of what does not belong to a stream
HELD = 3 * MB  # of a connection, at most
STREAMS = 12
LONG, HEAD = 4000, 90_000  # bytes of a field, and of a head
HEADS = 20 * MB  # of a connection, at most
MANY = 2 * HEAP // HELD


def takes_heads(connection: socket.socket) -> None:
    """A server that answers HTTP/1, and of HTTP/2 takes the head and then nothing."""
    while data := connection.recv(1 << 16):
        if data.startswith(PREFACE):
            connection.sendall(frame(SETTINGS, 0, 0, b""))
            return
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field(f"envoy_heap_mb: {HEAP // MB}\nconnections_per_client: 0\n") as made:
        made.record.close()
        yield made


@pytest.fixture(autouse=True)
def server(ground: Field) -> Iterator[None]:
    made = TcpServer(ground.server, L7, takes_heads)
    yield
    made.close()


def allocated(ground: Field) -> int:
    """Bytes that Envoy has now."""
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(ground.node.run_dir / "admin.sock"))
        admin.sendall(b"GET /memory HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: admin.recv(65536), b""))
    return int(json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])["allocated"])


def hold(ground: Field) -> socket.socket:
    """A connection with as many bytes in its streams as Envoy takes."""
    speaks = H2Connection(H2Configuration(header_encoding=None))
    speaks.initiate_connection()
    connection = ground.connect(0)
    connection.settimeout(10)
    connection.sendall(speaks.data_to_send())
    while speaks.outbound_flow_control_window == 65535:
        speaks.receive_data(connection.recv(1 << 16))
    with suppress(OSError):  # Envoy may have had enough
        for stream in range(1, 2 * STREAMS, 2):
            speaks.send_headers(stream, request())
            while window := min(speaks.local_flow_control_window(stream), speaks.max_outbound_frame_size):
                speaks.send_data(stream, bytes(window))
                connection.sendall(speaks.data_to_send())
    return connection


def served(ground: Field) -> bool:
    """Whether a connection that comes now is."""
    return ground.say(0, b"GET /allowed HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 1.0).startswith(
        b"HTTP/1.1 200"
    )


def test_a_connection_holds_little(ground: Field) -> None:
    before = allocated(ground)
    with ExitStack() as held:
        for _ in range(4):
            held.enter_context(hold(ground))
        assert allocated(ground) - before < ROOM + 4 * HELD


def test_a_connections_heads_hold_little(ground: Field) -> None:
    """Each is told by a few bytes that stand for the same long one (HPACK), and answered by nobody."""
    encoder = Encoder()
    long = [(b"x-long", b"y" * (LONG - 40))] * (HEAD // LONG)
    with ground.connect(0) as connection:
        connection.settimeout(10)
        connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
        before = allocated(ground)
        heads = (encoder.encode([*request(), *long], huffman=False) for _ in range(1000))
        data = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, head) for at, head in enumerate(heads))
        assert len(data) < MB
        with suppress(OSError):
            connection.sendall(data)
        assert listen(connection, 0.5)
        assert allocated(ground) - before < ROOM + HEADS


def test_who_holds_most_is_reset_before_others_are_refused(ground: Field) -> None:
    with ExitStack() as held:
        for _ in range(MANY):
            held.enter_context(hold(ground))
            assert served(ground)
        assert ground.node.stat("^envoy.overload_actions.reset_high_memory_stream.count") > 0
