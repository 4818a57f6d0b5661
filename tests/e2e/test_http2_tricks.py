"""HTTP/2 requests that mean one thing to a proxy and another to a server, frame by frame through the real Envoy.

The server keeps the header fields of every stream as they came. A trick has failed when one that it got, read as
strictly as RFC 9113 has it, is a request that the policy does not allow.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, TrailersReceived
from h2.exceptions import ProtocolError
from hpack import Encoder
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.field import L7, Field, field, listen
from lockgate.tests.e2e.tcp_server import TcpServer

Fields = list[tuple[bytes, bytes]]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, SETTINGS, PUSH_PROMISE, CONTINUATION = 0, 1, 2, 4, 5, 9
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
ALLOWED = {
    (b"GET", b"/allowed"): {},
    (b"GET", b"/secret"): {b"x-role": b"admin"},
    (b"GET", b"/host"): {b":authority": b"good"},
}
_SERVER = H2Configuration(
    client_side=False, header_encoding=None, validate_inbound_headers=False, normalize_inbound_headers=False
)


class Http2Recorder:
    """A server that answers every request with 200 and keeps what it was."""

    def __init__(self, where: Namespace) -> None:
        self.requests: list[Fields] = []
        self.trailers: list[Fields] = []
        self.strange: list[str] = []  # what came and was no HTTP/2
        self._server = TcpServer(where, L7, self._answer)

    def _answer(self, connection: socket.socket) -> None:
        speaks = H2Connection(_SERVER)
        speaks.initiate_connection()
        with connection:
            connection.sendall(speaks.data_to_send())
            while data := connection.recv(1 << 16):
                try:
                    events = speaks.receive_data(data)
                except ProtocolError as error:
                    self.strange.append(repr(error))
                    return
                for event in events:
                    if isinstance(event, RequestReceived):
                        self.requests.append([(bytes(name), bytes(value)) for name, value in event.headers or ()])
                        assert event.stream_id is not None
                        with suppress(ProtocolError):  # it may be over already
                            speaks.send_headers(event.stream_id, [(":status", "200")], end_stream=True)
                    elif isinstance(event, TrailersReceived):
                        self.trailers.append([(bytes(name), bytes(value)) for name, value in event.headers or ()])
                    elif isinstance(event, DataReceived) and event.flow_controlled_length:
                        speaks.increment_flow_control_window(event.flow_controlled_length)
                connection.sendall(speaks.data_to_send())

    def close(self) -> None:
        self._server.close()


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field() as made:
        made.record.close()
        yield made


@pytest.fixture(scope="module")
def recorder(ground: Field) -> Iterator[Http2Recorder]:
    made = Http2Recorder(ground.server)
    yield made
    made.close()


@pytest.fixture
def server(recorder: Http2Recorder) -> Http2Recorder:
    """With nothing kept."""
    for kept in (recorder.requests, recorder.trailers, recorder.strange):
        kept.clear()
    return recorder


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """https://www.rfc-editor.org/rfc/rfc9113#section-4.1"""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def coded(fields: Fields) -> bytes:
    """Nothing goes into the table, so blocks can stand in any order."""
    return bytes(Encoder().encode([(name, value, True) for name, value in fields], huffman=False))


def asks(fields: Fields, stream: int = 1, flags: int = END_STREAM | END_HEADERS, more: bytes = b"") -> bytes:
    return frame(HEADERS, flags, stream, coded(fields)) + more


def request(path: bytes = b"/allowed", *more: tuple[bytes, bytes], method: bytes = b"GET") -> Fields:
    head = [(b":method", method), (b":scheme", b"http"), (b":authority", b"x"), (b":path", path)]
    return [*head, *more]


def of_host(*more: tuple[bytes, bytes], authority: bytes | None = None) -> Fields:
    named = [(b":authority", authority)] if authority is not None else []
    return [(b":method", b"GET"), (b":scheme", b"http"), *named, (b":path", b"/host"), *more]


def secret(*more: tuple[bytes, bytes]) -> Fields:
    return request(b"/secret", *more)


ADMIN = (b"x-role", b"admin")
EVIL = request(b"/forbidden")
OPEN = END_HEADERS  # flags of a stream that goes on


def check(server: Http2Recorder) -> list[bytes]:
    """The paths of what the server got; fails when one is not allowed, or can be read in two ways."""
    assert server.strange == []
    found = []
    for fields in server.requests:
        names = [name for name, _ in fields]
        for name in (b":method", b":path", b":scheme", b":authority"):
            assert names.count(name) == 1, fields
        assert {name for name in names if name.startswith(b":")} <= {b":method", b":path", b":scheme", b":authority"}
        values = dict(fields)
        assert values.get(b"host", values[b":authority"]) == values[b":authority"], fields
        assert not {b"connection", b"transfer-encoding", b"upgrade", b"keep-alive"} & {*names}, fields
        for name, value in fields:
            assert name == name.lower() and not {*b" \r\n\0"} & {*name}, fields
            assert not {*b"\r\n\0"} & {*value}, fields
        wanted = ALLOWED.get((values[b":method"], values[b":path"]))
        assert wanted is not None, fields
        for name, value in wanted.items():
            assert [each for other, each in fields if other == name] == [value], fields
        found.append(values[b":path"])
    for fields in server.trailers:
        assert not any(name.startswith(b":") or name in (b"x-role", b"host") for name, _ in fields), fields
    return found


def say(ground: Field, data: bytes, patience: float = 0.25) -> bytes:
    return ground.say(0, PREFACE + frame(SETTINGS, 0, 0, b"") + data, patience)


TRICKS = {
    "two paths": asks([*request(), (b":path", b"/forbidden")]),
    "two paths, the allowed one last": asks([*EVIL, (b":path", b"/allowed")]),
    "two methods": asks([*request(), (b":method", b"POST")]),
    "a path with a fragment": asks(request(b"/allowed#/../forbidden")),
    "a path with dots": asks(request(b"/allowed/../forbidden")),
    "a path with a blank": asks(request(b"/allowed /forbidden")),
    "a path with a newline": asks(request(b"/allowed\r\nx-role: admin")),
    "a path of a byte": asks(request(b"/allowed\xff")),
    "an absolute path": asks(request(b"http://x/forbidden")),
    "an asterisk": asks(request(b"*", method=b"OPTIONS")),
    "no path": asks([each for each in request() if each[0] != b":path"]),
    "an empty path": asks(request(b"")),
    "a path in the method": asks(request(method=b"GET /forbidden HTTP/1.1\r\nx: ")),
    "lower case method": asks(request(method=b"get")),
    "method with a blank": asks(request(method=b"GET ")),
    "another scheme": asks([(name, b"javascript" if name == b":scheme" else value) for name, value in EVIL]),
    "pseudo fields at the end": asks([ADMIN, *EVIL]),
    "unknown pseudo field": asks([(b":role", b"admin"), *secret()]),
    "a status": asks([*EVIL, (b":status", b"200")]),
    "extended connect": asks([(b":method", b"CONNECT"), (b":protocol", b"websocket"), *request(b"/forbidden")[1:]]),
    "extended connect to what a GET may": asks(
        [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *request()[1:]]
    ),
    "connect-udp": asks([(b":method", b"CONNECT"), (b":protocol", b"connect-udp"), *request()[1:]]),
    "connect": asks([(b":method", b"CONNECT"), (b":authority", b"x:80")]),
    "connect with a path": asks([(b":method", b"CONNECT"), *request()[1:]]),
    "protocol on a GET": asks([(b":method", b"GET"), (b":protocol", b"websocket"), *EVIL[1:]]),
    "upper case name": asks(secret((b"X-Role", b"admin"))),
    "name with a blank": asks(secret((b"x-role ", b"admin"))),
    "name with a colon": asks(secret((b"x-role:", b"admin"))),
    "an empty name": asks(secret((b"", b"admin"))),
    "underscore": asks(secret((b"x_role", b"admin"))),
    "a value behind a newline": asks(secret((b"x", b"y\r\nx-role: admin"))),
    "a value with a nul": asks(secret((b"x-role", b"admin\0"))),
    "another first": asks(secret((b"x-role", b"user"), ADMIN)),
    "another last": asks(secret(ADMIN, (b"x-role", b"user"))),
    "a list": asks(secret((b"x-role", b"admin,user"))),
    "taken away by connection": asks(secret(ADMIN, (b"connection", b"x-role"))),
    "te": asks([*EVIL, (b"te", b"chunked")]),
    "transfer-encoding": asks(request(b"/allowed", (b"transfer-encoding", b"chunked")), flags=OPEN)
    + frame(DATA, END_STREAM, 1, b"0\r\n\r\nGET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"),
    "upgrade": asks(request(b"/allowed", (b"connection", b"upgrade"), (b"upgrade", b"h2c"))),
    "in a trailer": asks(secret(), flags=OPEN) + asks([ADMIN]),
    "a path in a trailer": asks(request(), flags=OPEN) + asks([(b":path", b"/forbidden")]),
    "a trailer that ends nothing": asks(request(), flags=OPEN) + asks([ADMIN], flags=OPEN) + asks(EVIL),
    "two heads on one stream": asks(request(), flags=OPEN) + asks(EVIL),
    "two authorities": asks([*of_host(authority=b"good"), (b":authority", b"evil")]),
    "authority and host": asks(of_host((b"host", b"good"), authority=b"evil")),
    "an authority with a user": asks(of_host(authority=b"good@evil")),
    "an authority with a port": asks(of_host(authority=b"good:80")),
    "an authority in upper case": asks(of_host(authority=b"GOOD")),
    "two hosts": asks(of_host((b"host", b"good"), (b"host", b"evil"))),
    "no authority": asks(of_host()),
    "a length that is short": asks(request(b"/allowed", (b"content-length", b"1")), flags=OPEN)
    + frame(DATA, END_STREAM, 1, b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n"),
    "two lengths": asks(request(b"/allowed", (b"content-length", b"0"), (b"content-length", b"5")), flags=OPEN)
    + frame(DATA, END_STREAM, 1, b"hello"),
    "an even stream": asks(EVIL, stream=2),
    "a stream of nobody's": asks(EVIL, stream=0),
    "an older stream": asks(request(), stream=3) + asks(EVIL, stream=1),
    "a push": frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + coded(EVIL)),
    "a head in two pieces, another between": frame(HEADERS, END_STREAM, 1, coded(request())[:5])
    + asks(EVIL, stream=3)
    + frame(CONTINUATION, END_HEADERS, 1, coded(request())[5:]),
    "data before a head": frame(DATA, 0, 1, b"x") + asks(EVIL),
    "more padding than there is": frame(HEADERS, END_STREAM | END_HEADERS | PADDED, 1, b"\xff" + coded(EVIL)),
    "without a preface": b"",
    "http/1 in the middle": asks(request()) + b"GET /forbidden HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_tricks(ground: Field, server: Http2Recorder, trick: str) -> None:
    say(ground, TRICKS[trick])
    assert {*check(server)} <= {b"/allowed"}


def test_what_is_allowed_arrives(ground: Field, server: Http2Recorder) -> None:
    """On one connection, beside what is not."""
    say(
        ground,
        asks(request())
        + asks(EVIL, stream=3)
        + asks(secret(ADMIN), stream=5)
        + asks(of_host(authority=b"good"), stream=7)
        + asks(of_host((b"host", b"good")), stream=9)
        + asks(request(b"/x/../allowed"), stream=11),
        1.0,
    )
    assert sorted(check(server)) == [b"/allowed", b"/allowed", b"/host", b"/host", b"/secret"]


def test_endless_heads(ground: Field, server: Http2Recorder) -> None:
    """A head that never ends, or that is longer than what Envoy takes; Envoy lives on."""
    many: Fields = [(b"x-%d" % number, b"y") for number in range(2000)]
    pieces = b"".join(frame(CONTINUATION, 0, 1, coded(many[:200])) for _ in range(200))
    for data in (frame(HEADERS, 0, 1, coded(EVIL)) + pieces, asks(request(b"/allowed", *many[:600]))):
        with ground.connect(0, L7) as connection:
            with suppress(OSError):
                connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + data)
            listen(connection, 0.4)
    assert check(server) == []
    say(ground, asks(request()))
    assert check(server) == [b"/allowed"]
