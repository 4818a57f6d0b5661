"""A server that answers more, less or otherwise than it was asked, on a connection that Envoy keeps for the next one.

What another connection of the client's asks then must be answered by what the server says to that, or not at all.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.field import L7, Field, field, listen
from lockgate.tests.e2e.tcp_server import TcpServer

STOLEN = b"stolen"
_IDLE = 0.1  # seconds, in which Envoy has put the connection aside


def response(body: bytes, status: bytes = b"200 OK", *headers: bytes, length: int | None = None) -> bytes:
    told = b"Content-Length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([b"HTTP/1.1 " + status, told, *headers, b"", body])


MORE = response(STOLEN)
HALF = len(MORE) // 2
CHUNKED = b"Transfer-Encoding: chunked"


def chunked(body: bytes, *headers: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", CHUNKED, *headers, b"", body])


# What it says to a request, where OWN stands for the answer's body; None is a pause.
OWN = b"<own>"
TRICKS: dict[str, tuple[bytes | None, ...]] = {
    "two answers": (response(OWN) + MORE,),
    "another answer later": (response(OWN), None, MORE),
    "half of another answer later": (response(OWN), None, MORE[:HALF], None, MORE[HALF:]),
    "a thousand informal answers": (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000 + response(OWN),),
    "hints without end": (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 20000 + response(OWN),),
    "an informal answer later": (response(OWN), None, b"HTTP/1.1 100 Continue\r\n\r\n"),
    "another protocol that nobody asked for": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + MORE,
    ),
    "a body that is longer": (response(OWN, length=2) + MORE,),
    "a body that is shorter": (response(OWN, length=1000), None, MORE),
    "two lengths": (response(OWN, b"200 OK", b"Content-Length: 5") + MORE,),
    "length and chunks": (response(b"0\r\n\r\n", b"200 OK", CHUNKED) + MORE,),
    "chunks and more": (chunked(b"5\r\n" + OWN + b"\r\n0\r\n\r\n") + MORE,),
    "chunks of a size that is none": (chunked(b"-5\r\n" + OWN + b"\r\n0\r\n\r\n") + MORE,),
    "a chunk without end": (chunked(b"ffffffffffffffff\r\n" + OWN), None, MORE),
    "chunks in capitals": (chunked(b"0\r\n\r\n").replace(b"chunked", b"ChUnKeD, identity") + MORE,),
    "no content with content": (response(MORE, b"204 No Content"),),
    "not modified with content": (response(MORE, b"304 Not Modified"),),
    "a head that is split": (response(OWN, b"200 OK", b"X: y\r\n\r\n" + MORE),),
    "newlines alone": (response(OWN).replace(b"\r\n", b"\n") + MORE,),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n" + OWN, None, MORE),
    "the version before": (response(OWN).replace(b"1.1", b"1.0") + MORE,),
    "the version before that is kept": (
        response(OWN, b"200 OK", b"Connection: keep-alive").replace(b"1.1", b"1.0"),
        None,
        MORE,
    ),
    "a status that is none": (response(OWN, b"099 x") + MORE,),
    "no status": (b"\r\n\r\n" + MORE,),
    "a head without end": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000 + b"\r\n" + MORE,),
    "nothing but bytes": (b"\0" * 5000 + MORE,),
    "what a client says": (b"GET /allowed HTTP/1.1\r\nHost: x\r\n\r\n" + MORE,),
    "http/2": (b"\0\0\0\4\0\0\0\0\0" + MORE,),
}


class Hostile:
    """It does to each request what that says in X-Trick; the answer's own body is what stands in X-Own."""

    def __init__(self, where: Namespace) -> None:
        self.connections: dict[bytes, int] = {}  # by X-Own
        self._numbers = count()
        self._server = TcpServer(where, L7, self._serve)

    def _serve(self, connection: socket.socket) -> None:
        number, asked = next(self._numbers), b""
        with connection:
            while data := connection.recv(1 << 16):
                asked += data
                while b"\r\n\r\n" in asked:
                    head, _, asked = asked.partition(b"\r\n\r\n")
                    said = dict(re.findall(rb"(?im)^x-(trick|own): (.+?)\r?$", head))
                    fields = {name.lower(): value for name, value in said.items()}
                    self.connections[fields[b"own"]] = number
                    for words in TRICKS.get(fields.get(b"trick", b"").decode(), (response(OWN),)):
                        if words is None:
                            time.sleep(_IDLE)
                        else:
                            connection.sendall(words.replace(OWN, fields[b"own"]))

    def close(self) -> None:
        self._server.close()


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field("concurrency: 1\n") as made:  # each worker thread keeps its own
        made.record.close()
        yield made


@pytest.fixture(scope="module")
def server(ground: Field) -> Iterator[Hostile]:
    made = Hostile(ground.server)
    yield made
    made.close()


_own = count(10000)  # all of five digits


def ask(connection: socket.socket, trick: str = "") -> bytes:
    """Sends a request; with what it is to be answered."""
    own = b"%d" % next(_own)
    connection.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\nX-Own: %s\r\nX-Trick: %s\r\n\r\n" % (own, trick.encode()))
    return own


def answered(connection: socket.socket) -> bytes:
    """One answer, and what comes close behind it."""
    connection.settimeout(20)
    answer = b""
    while (length := re.search(rb"(?i)content-length: (\d+)[^\0]*?\r\n\r\n", answer)) is None or (
        len(answer) < length.end() + int(length[1])
    ):
        data = connection.recv(1 << 16)
        if not data:
            return answer
        answer += data
    return answer + listen(connection, 0.05)


def is_answer(own: bytes, answer: bytes) -> bool:
    """Its own, or one of Envoy's own that there is none."""
    head, _, body = answer.partition(b"\r\n\r\n")
    return (head.startswith(b"HTTP/1.1 200") and body == own) or head.startswith((b"HTTP/1.1 502", b"HTTP/1.1 503"))


def test_connections_are_kept_for_the_next_one(ground: Field, server: Hostile) -> None:
    """Or there would be nothing to see here."""
    with ground.connect(0) as one, ground.connect(0) as other:
        first = ask(one)
        assert is_answer(first, answered(one))
        second = ask(other)
        assert is_answer(second, answered(other))
    assert server.connections[first] == server.connections[second]


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("trick", TRICKS)
def test_another_connection_of_the_clients(ground: Field, trick: str) -> None:
    """Also while the server is at it, unless it pauses: what it says then is its answer to whoever asks next."""
    with ground.connect(0) as one, ground.connect(0) as other:
        for pause in (3 * _IDLE,) if None in TRICKS[trick] else (0.01, 3 * _IDLE):
            with suppress(OSError):
                ask(one, trick)
            listen(one, pause)
            own = ask(other)
            answer = answered(other)
            assert is_answer(own, answer), answer[:200]


@pytest.mark.usefixtures("server")
def test_an_answer_before_the_question_is_whole(ground: Field) -> None:
    """What is left of the question must not be the beginning of another's."""
    with ground.connect(0) as one, ground.connect(0) as other:
        own = b"%d" % next(_own)
        one.sendall(b"GET /allowed HTTP/1.1\r\nHost: x\r\nX-Own: %s\r\nContent-Length: 1000\r\n\r\nGET " % own)
        assert own in answered(one)
        own = ask(other)
        assert is_answer(own, answered(other))
