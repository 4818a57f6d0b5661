"""HTTP/2 frames without end from one client, through the real Envoy with one worker; its neighbours are served."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from hpack import Encoder
from lockgate.tests.e2e.field import L7, Field, field, listen
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.e2e.test_envoy_memory import takes_heads
from lockgate.tests.e2e.test_http2_tricks import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    PRIORITY,
    SETTINGS,
    asks,
    frame,
    request,
)

RST_STREAM, PING, WINDOW_UPDATE, NOBODYS = 3, 6, 8, 200
MANY = 20_000
IN_TURN = (
    1000  # of a client's requests that may be judged before its neighbour's; it is 16 at a time, and there is time
)
OPEN = END_HEADERS


def streams(ask: bytes, then: bytes = b"", flags: int = END_STREAM | END_HEADERS, count: int = MANY) -> bytes:
    """So many requests; `then` is a frame for each, whose stream is still to be written in."""
    follows = [then[:5], then[9:]] if then else []
    return b"".join(
        frame(HEADERS, flags, stream, ask) + (struct.pack("!I", stream).join(follows) if follows else b"")
        for stream in range(1, 2 * count, 2)
    )


def block(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    return bytes(Encoder().encode([(name, value, True) for name, value in request(path, *more)], huffman=False))


GOOD, BAD = block(b"/allowed"), block(b"/forbidden")
CANCEL = frame(RST_STREAM, 0, 0, struct.pack("!I", 8))
NO_WINDOW = frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 0))
TOO_WIDE = frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", (1 << 31) - 1))
FLOODS = {
    "requests": streams(GOOD),
    "requests that are denied": streams(BAD),
    "rapid reset": streams(GOOD, CANCEL),
    "rapid reset of what is denied": streams(BAD, CANCEL),
    "windows that the server must reset for": streams(GOOD, NO_WINDOW, OPEN),
    "windows that overflow": streams(GOOD, TOO_WIDE, OPEN),
    "more data than was told": streams(
        block(b"/allowed", (b"content-length", b"1")), frame(DATA, END_STREAM, 0, b"xy"), OPEN
    ),
    "heads that are wrong": streams(block(b"/allowed", (b"X Y", b"z"))),
    "settings": frame(SETTINGS, 0, 0, b"") * MANY,
    "pings": frame(PING, 0, 0, bytes(8)) * MANY,
    "priorities": frame(PRIORITY, 0, 1, bytes(5)) * MANY,
    "windows": asks(request(), flags=OPEN) + frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", 1)) * MANY,
    "data without data": asks(request(), flags=OPEN) + frame(DATA, 0, 1, b"") * MANY,
    "a head that goes on": frame(HEADERS, 0, 1, GOOD) + frame(CONTINUATION, 0, 1, b"") * MANY,
    "frames of nobody's": frame(NOBODYS, 0, 0, b"") * MANY,
}


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field("concurrency: 1\n") as made:
        made.record.close()
        yield made


@pytest.fixture(scope="module", autouse=True)
def server(ground: Field) -> Iterator[None]:
    made = TcpServer(ground.server, L7, takes_heads)
    yield
    made.close()


def begun(ground: Field) -> socket.socket:
    """A connection of HTTP/2 whose server has said its settings."""
    connection = ground.connect(0)
    connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b""))
    assert connection.recv(1 << 16)
    connection.setblocking(False)
    return connection


def pour(connection: socket.socket, data: bytes) -> None:
    """What the kernel takes of it."""
    with suppress(OSError):
        while data:
            data = data[connection.send(data) :]


@pytest.mark.parametrize("flood", FLOODS)
def test_neighbours_are_served(ground: Field, flood: str) -> None:
    pid = ground.node.envoy_pid()
    data = FLOODS[flood]
    with ExitStack() as held, ground.connect(0) as neighbour:
        neighbour.settimeout(30)
        for _ in range(3):
            pour(held.enter_context(begun(ground)), data)
            neighbour.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n")
            assert neighbour.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert ground.node.envoy_pid() == pid


def test_they_have_their_turn(ground: Field) -> None:
    """Both have asked; one a single time, the other as often as there is room for."""

    def denied() -> int:
        return ground.node.stat("^http.lockgate_http.downstream_rq_4xx$")

    with begun(ground) as noisy, ground.connect(0) as neighbour:
        neighbour.settimeout(30)
        before, pid = denied(), ground.node.envoy_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            pour(noisy, FLOODS["requests that are denied"])
            neighbour.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert neighbour.recv(1 << 16).startswith(b"HTTP/1.1 200")
        assert denied() - before < IN_TURN


def test_a_thousand_requests_that_never_end(ground: Field) -> None:
    """Slowly, head by head (HTTP/1)."""
    with ExitStack() as held:
        slow = [held.enter_context(ground.connect(0)) for _ in range(1000)]
        for piece in (b"GET /allowed HTTP/1.1\r\n", b"Host: x\r\n", b"X-A: b\r\n"):
            for connection in slow:
                connection.sendall(piece)
            assert ground.say(0, b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n", 0.3).startswith(b"HTTP/1.1 200")
        slow[0].sendall(b"\r\n")
        assert listen(slow[0], 1.0).startswith(b"HTTP/1.1 200")


def test_streams_beside_each_other(ground: Field) -> None:
    """What is beyond their number is refused, and may be asked again (RFC 9113, 8.7)."""
    ask = streams(GOOD, count=300)
    with begun(ground) as connection:
        connection.setblocking(True)
        connection.sendall(ask)
        answer = listen(connection, 0.5)
    refused = [
        at
        for at in range(len(answer) - 12)
        if answer[at : at + 5] == b"\0\0\4\3\0" and answer[at + 9 : at + 13] == struct.pack("!I", 7)
    ]
    assert len(refused) == 300 - 128
