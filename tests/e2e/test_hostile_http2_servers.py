"""A server of HTTP/2 and gRPC that breaks the protocol towards the Envoy that all share, frame by frame.

Requests of a client's connections share one to the server. Each must be answered by what the server says on its own
stream, or not at all; Envoy lives, and other clients do not notice.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count

import pytest
from hpack import Decoder
from lockgate.tests.e2e.field import Field, field
from lockgate.tests.e2e.http2_server import IDLE, Http2Server, Trick, answer, frames, head, trailer
from lockgate.tests.e2e.test_envoy_memory import MB, allocated
from lockgate.tests.e2e.test_http2_tricks import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PADDED,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    SETTINGS,
    asks,
    coded,
    frame,
    request,
)

RST_STREAM, PING, GOAWAY, WINDOW_UPDATE, NOBODYS = 3, 6, 7, 8, 200
MANY = 20_000
STOLEN = b"stolen"
GRPC = (b"content-type", b"application/grpc")
ROOM = 16 * MB  # of what one such server may have Envoy hold, for a while
VICTIM = 5.0  # seconds, which a neighbour's request may take at most


def number(value: int) -> bytes:
    return struct.pack("!I", value)


def setting(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *each) for each in pairs))


def with_head(*more: tuple[bytes, bytes], status: bytes = b"200") -> Trick:
    return lambda stream, own: (head(stream, *more, status=status) + frame(DATA, END_STREAM, stream, own),)


def before(words: bytes) -> Trick:
    """Those, and then what is right."""
    return lambda stream, own: (words, None, answer(stream, own))


def behind(words: bytes) -> Trick:
    return lambda stream, own: (answer(stream, own) + words,)


def block(size: int) -> bytes:
    return coded([(b"x-%d" % each, b"y" * 1000) for each in range(size // 1000)])


LARGE = block(16_000)
TRICKS: dict[str, Trick] = {
    # Heads
    "a head without end": lambda stream, _: (
        frame(HEADERS, 0, stream, coded([(b":status", b"200")])) + frame(CONTINUATION, 0, stream, LARGE) * 2000,
    ),
    "a head of nothing without end": lambda stream, _: (
        frame(HEADERS, 0, stream, coded([(b":status", b"200")])) + frame(CONTINUATION, 0, stream, b"") * MANY,
    ),
    "a head of a thousand fields": with_head(*[(b"x-%d" % each, b"y") for each in range(1000)]),
    "a head of 200 KB": with_head(*[(b"x-%d" % each, b"y" * 1000) for each in range(200)]),
    "a head in which another's is": lambda stream, own: (
        frame(HEADERS, 0, stream, coded([(b":status", b"200")])) + answer(stream + 2, STOLEN) + answer(stream, own),
    ),
    "the rest of a head that nobody began": behind(frame(CONTINUATION, END_HEADERS, 1, coded([(b":status", b"200")]))),
    "two heads": lambda stream, own: (head(stream) + answer(stream, own),),
    "no status": lambda stream, own: (
        frame(HEADERS, END_HEADERS, stream, coded([(b"x", b"y")])) + frame(DATA, END_STREAM, stream, own),
    ),
    "two statuses": with_head((b":status", b"500")),
    "a status behind a field": lambda stream, own: (
        frame(HEADERS, END_HEADERS, stream, coded([(b"x", b"y"), (b":status", b"200")]))
        + frame(DATA, END_STREAM, stream, own),
    ),
    **{
        f"status {status!r}": with_head(status=status)
        for status in (b"", b"0", b"99", b"1000", b"-200", b"2e2", b"200 OK", b"\xff", b"99999999999999999999", b"101")
    },
    "pseudo fields of a request": with_head((b":path", b"/forbidden")),
    "a newline in a field": with_head((b"x", b"y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n" + STOLEN)),
    "a nul in a field": with_head((b"x", b"y\0z")),
    "a newline in a name": with_head((b"x\r\ny", b"z")),
    "a name in upper case": with_head((b"X-Y", b"z")),
    "an empty name": with_head((b"", b"z")),
    "fields of one connection": with_head((b"connection", b"close"), (b"transfer-encoding", b"chunked")),
    "an upgrade": with_head((b"upgrade", b"websocket"), (b"connection", b"upgrade")),
    "a length that is short": with_head((b"content-length", b"1")),
    "a length that is long": with_head((b"content-length", b"1000")),
    "two lengths": with_head((b"content-length", b"5"), (b"content-length", b"6")),
    "a length that is none": with_head((b"content-length", b"-1")),
    "more padding than there is": lambda stream, _: (
        frame(HEADERS, END_HEADERS | PADDED, stream, b"\xff" + coded([(b":status", b"200")])),
    ),
    # HPACK
    "an entry that is not in the table": lambda stream, _: (frame(HEADERS, END_HEADERS, stream, b"\xff\xff\xff\x7f"),),
    "entry 0": lambda stream, _: (frame(HEADERS, END_HEADERS, stream, b"\x80"),),
    "a number without end": lambda stream, _: (frame(HEADERS, END_HEADERS, stream, b"\xff" * 1000),),
    "a text longer than the head": lambda stream, _: (frame(HEADERS, END_HEADERS, stream, b"\0\x7f\xff\xff\x7fx"),),
    "Huffman codes that are none": lambda stream, _: (frame(HEADERS, END_HEADERS, stream, b"\0\x84\xff\xff\xff\xff"),),
    "a table larger than told": lambda stream, _: (
        frame(HEADERS, END_HEADERS, stream, b"\x3f\xe1\xff\xff\x7f" + coded([(b":status", b"200")])),
    ),
    "a table of 4 GB for Envoy": before(setting((1, (1 << 32) - 1))),
    "no table, then one, a thousand times": before(setting((1, 0)) * 500 + setting((1, 1 << 20)) * 500),
    "a field again and again": lambda stream, _: (
        frame(HEADERS, END_HEADERS, stream, b"\x88\x40\x01x\x7f\xa1\x1e" + b"y" * 4000 + b"\xbe" * 12000),
    ),
    # Informal answers
    "hints without end": lambda stream, own: (
        head(stream, (b"link", b"<x>"), status=b"103") * MANY + answer(stream, own),
    ),
    "go on without end": lambda stream, own: (head(stream, status=b"100") * MANY + answer(stream, own),),
    "an informal answer that ends": lambda stream, _: (head(stream, status=b"103", flags=END_HEADERS | END_STREAM),),
    "an informal answer late": lambda stream, own: (
        head(stream) + head(stream, status=b"103") + frame(DATA, END_STREAM, stream, own),
    ),
    # Content
    "content before a head": lambda stream, own: (frame(DATA, 0, stream, STOLEN) + answer(stream, own),),
    "content behind the end": lambda stream, own: (answer(stream, own) + frame(DATA, END_STREAM, stream, STOLEN) * 10,),
    "content behind the end, later": lambda stream, own: (
        answer(stream, own),
        None,
        frame(DATA, END_STREAM, stream, STOLEN),
    ),
    "content of nothing without end": lambda stream, _: (head(stream) + frame(DATA, 0, stream, b"") * MANY,),
    "padding without end": lambda stream, _: (head(stream) + frame(DATA, PADDED, stream, b"\xff" + bytes(255)) * MANY,),
    "more than the window": lambda stream, _: (head(stream) + frame(DATA, 0, stream, bytes(1 << 14)) * 400,),
    "a frame of 16 MB": lambda stream, _: (head(stream) + b"\xff\xff\xff\0\0" + number(stream) + bytes(1 << 20),),
    "content where there is none": with_head(status=b"204"),
    "not modified with content": with_head(status=b"304"),
    "no answer": lambda *_: (),
    # Trailers
    "trailers that do not end": lambda stream, _: (head(stream) + trailer(stream, [(b"x", b"y")], END_HEADERS) * 1000,),
    "trailers of 200 KB": lambda stream, _: (
        head(stream)
        + frame(HEADERS, END_STREAM, stream, b"")
        + b"".join(frame(CONTINUATION, 0, stream, block(16_000)) for _ in range(13))
        + frame(CONTINUATION, END_HEADERS, stream, b""),
    ),
    "a status in trailers": lambda stream, _: (head(stream) + trailer(stream, [(b":status", b"200")]),),
    "trailers and more": lambda stream, own: (
        head(stream) + frame(DATA, 0, stream, own) + trailer(stream, [(b"x", b"y")]) + answer(stream, STOLEN),
    ),
    **{
        f"grpc-status {status!r:.30}": lambda stream, own, status=status: (  # type: ignore[misc]
            head(stream, GRPC) + frame(DATA, 0, stream, own) + trailer(stream, [(b"grpc-status", status)]),
        )
        for status in (b"", b"-1", b"17", b"x", b"0" * 10_000, b"99999999999999999999")
    },
    "a grpc-message with everything": lambda stream, own: (
        head(stream, GRPC)
        + frame(DATA, 0, stream, own)
        + trailer(stream, [(b"grpc-status", b"2"), (b"grpc-message", b"%" * 10_000), (b"grpc-message", b"%0d%0a%00")]),
    ),
    "a grpc-message with a newline": lambda stream, own: (
        head(stream, GRPC)
        + frame(DATA, 0, stream, own)
        + trailer(stream, [(b"grpc-status", b"2"), (b"grpc-message", b"x\r\ny")]),
    ),
    "grpc-status twice": lambda stream, own: (
        head(stream, GRPC, (b"grpc-status", b"0"))
        + frame(DATA, 0, stream, own)
        + trailer(stream, [(b"grpc-status", b"7"), (b"grpc-status", b"0")]),
    ),
    # Other streams
    "an answer to nobody": lambda stream, own: (answer(stream + 1000, STOLEN) + answer(stream, own),),
    "an answer to who comes next": lambda stream, own: (answer(stream, own) + answer(stream + 2, STOLEN),),
    "a stream of the server's": lambda stream, own: (answer(2, STOLEN) + answer(stream, own),),
    "stream 0": lambda stream, own: (answer(0, STOLEN) + answer(stream, own),),
    "a push": lambda stream, own: (
        frame(PUSH_PROMISE, END_HEADERS, stream, number(2) + coded(request()))
        + answer(2, STOLEN)
        + answer(stream, own),
    ),
    "a push that never ends": lambda stream, _: (
        frame(PUSH_PROMISE, 0, stream, number(2)) + frame(CONTINUATION, 0, stream, LARGE) * 100,
    ),
    "a request": lambda stream, own: (asks(request(), stream=2) + answer(stream, own),),
    "stream after stream is reset": lambda stream, own: (
        b"".join(frame(RST_STREAM, 0, each, number(8)) for each in range(stream + 2, stream + 20_000, 2))
        + answer(stream, own),
    ),
    "reset without end": lambda stream, _: (frame(RST_STREAM, 0, stream, number(8)) * MANY,),
    "reset of all": lambda stream, own: (
        b"".join(frame(RST_STREAM, 0, each, number(7)) for each in range(1, stream, 2)) + answer(stream, own),
    ),
    "reset without an error behind a head": lambda stream, _: (head(stream) + frame(RST_STREAM, 0, stream, number(0)),),
    # Of the connection
    "settings without end": before(frame(SETTINGS, 0, 0, b"") * MANY),
    "acknowledgements of nothing": before(frame(SETTINGS, 1, 0, b"") * MANY),
    "a thousand settings in one": before(setting(*[(1000 + each, each) for each in range(2000)])),
    "settings of a wrong length": before(frame(SETTINGS, 0, 0, b"x")),
    "settings that are wrong": before(setting((2, 7), (4, (1 << 32) - 1), (5, 1), (8, 9))),
    "no streams": before(setting((3, 0))),
    "no window at first": before(setting((4, 0))),
    "pings without end": before(frame(PING, 0, 0, bytes(8)) * MANY),
    "answers to no ping": before(frame(PING, 1, 0, bytes(8)) * MANY),
    "priorities without end": lambda stream, own: (frame(PRIORITY, 0, stream, bytes(5)) * MANY + answer(stream, own),),
    "a stream that depends on itself": lambda stream, own: (
        frame(PRIORITY, 0, stream, number(stream) + b"\0") + answer(stream, own),
    ),
    "a window of nothing": lambda stream, own: (frame(WINDOW_UPDATE, 0, stream, number(0)) + answer(stream, own),),
    "a window of nothing for all": before(frame(WINDOW_UPDATE, 0, 0, number(0))),
    "a window that overflows": lambda stream, own: (
        frame(WINDOW_UPDATE, 0, stream, number((1 << 31) - 1)) * 2 + answer(stream, own),
    ),
    "a window that overflows for all": before(frame(WINDOW_UPDATE, 0, 0, number((1 << 31) - 1)) * 2),
    "windows without end": before(frame(WINDOW_UPDATE, 0, 0, number(1)) * MANY),
    "frames of nobody's": before(frame(NOBODYS, 0xFF, 0, bytes(1000)) * 1000),
    "goes away": before(frame(GOAWAY, 0, 0, number(0) + number(0))),
    "goes away later": behind(frame(GOAWAY, 0, 0, number((1 << 31) - 1) + number(0))),
    "goes away further and further": before(
        b"".join(frame(GOAWAY, 0, 0, number(each) + number(0) + b"x" * 1000) for each in range(1, 2001, 2))
    ),
    "goes away as it was harassed": before(frame(GOAWAY, 0, 0, number(0) + number(11))),
    "HTTP/1": before(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n" + STOLEN),
    "nothing but bytes": before(b"\0" * 5000),
    "a preface": before(PREFACE),
}


@pytest.fixture(scope="module")
def ground() -> Iterator[Field]:
    with field("concurrency: 1\n") as made:  # each worker thread has its own connections to the server
        made.record.close()
        yield made


@pytest.fixture(scope="module")
def server(ground: Field) -> Iterator[Http2Server]:
    made = Http2Server(ground.server, {**TRICKS, "later": lambda stream, own: (None, None, answer(stream, own))})
    yield made
    made.close()


class Client:
    """A connection of HTTP/2; `family` is the address, each of which is a client of its own."""

    _own = count(10000)

    def __init__(self, ground: Field, family: int = 0) -> None:
        self.answers: dict[bytes, bytes | None] = {}  # by `own`; None: there is none
        self._bodies: dict[int, bytes] = {}
        self._owners: dict[int, bytes] = {}
        self._streams = count(1, 2)
        self._decoder = Decoder()
        self._socket = ground.connect(family)
        self._socket.settimeout(VICTIM)
        self._socket.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(WINDOW_UPDATE, 0, 0, number(1 << 30)))
        self._frames = frames(self._socket)

    def ask(self, trick: str = "", path: bytes = b"/allowed") -> bytes:
        """What its answer must be."""
        own, stream = b"own %d" % next(self._own), next(self._streams)
        self._owners[stream] = own
        with suppress(OSError):
            self._socket.sendall(asks(request(path, (b"own", own), (b"trick", trick.encode()), GRPC), stream=stream))
        return own

    def hear(self, own: bytes, patience: float = VICTIM) -> bytes | None:
        """The answer's body; None when there is none in time, or it is one of Envoy's own that there is none."""
        deadline = time.monotonic() + patience
        with suppress(OSError):
            while own not in self.answers and (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                try:
                    self._take(*next(self._frames))
                except StopIteration:
                    break
        return self.answers.get(own)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            fields = dict(self._decoder.decode(payload, raw=True)) if flags & END_HEADERS else {}
            assert stream in self._owners, stream
            for name, value in fields.items():
                assert not {*b"\r\n\0"} & {*name, *value}, fields
        elif kind == DATA:
            assert stream in self._owners, stream
            self._bodies[stream] = self._bodies.get(stream, b"") + payload
        assert kind != PUSH_PROMISE
        if kind == RST_STREAM:
            self.answers[self._owners[stream]] = None
        elif kind in (HEADERS, DATA) and flags & END_STREAM:
            self.answers[self._owners[stream]] = self._bodies.get(stream)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def test_a_connection_to_the_server_is_shared(ground: Field, server: Http2Server) -> None:
    """By those of one client; another has its own. Or there would be nothing to see here."""
    with Client(ground) as one, Client(ground) as other, Client(ground, 1) as stranger:
        asked = [each.ask() for each in (one, other, stranger) if each.hear(each.ask())]
        assert all(each.hear(own) == own for each, own in zip((one, other, stranger), asked, strict=True))
    first, second, third = (server.connections[own] for own in asked)
    assert first == second != third


@pytest.mark.parametrize("trick", TRICKS)
def test_each_has_its_own_answer(ground: Field, server: Http2Server, trick: str) -> None:
    """Who asks before, with it and after it on the same connection to the server; another client does not notice."""
    pid, held = ground.node.envoy_pid(), allocated(ground)
    with Client(ground) as hostile, Client(ground) as other, Client(ground, 1) as stranger:
        for each in (hostile, other, stranger):
            first = each.ask()
            assert each.hear(first) == first
        before = other.ask("later")
        own = hostile.ask(trick)
        beside, strange = other.ask(), stranger.ask()
        denied = stranger.ask(path=b"/forbidden")
        assert stranger.hear(strange) == strange
        assert stranger.hear(denied) != denied
        got = hostile.hear(own, 3 * IDLE) or b""
        assert (STOLEN not in got and own.startswith(got[: len(own)])) or got == bytes(len(got)), got[:100]
        for asked in (before, beside):
            assert other.hear(asked, 1.0) in (asked, None) or b"upstream" in (other.answers[asked] or b"")
        behind = other.ask()
        after = other.hear(behind, 1.0)
        assert after in (behind, None) or b"upstream" in (after or b""), after
        assert STOLEN not in b"".join(filter(None, (*other.answers.values(), *stranger.answers.values())))
        assert allocated(ground) - held < ROOM
    with Client(ground) as client:
        own = client.ask()
        assert client.hear(own) == own
    assert ground.node.envoy_pid() == pid
    assert server.paths == {b"/allowed"}
