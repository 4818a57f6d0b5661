"""A server of HTTP/2 that tells right frames from wrong ones by what each request asks it for."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count

from hpack import Decoder
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.field import L7
from lockgate.tests.e2e.tcp_server import TcpServer
from lockgate.tests.e2e.test_http2_tricks import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    SETTINGS,
    Fields,
    coded,
    frame,
)

Said = tuple[bytes | None, ...]  # None is a pause
Trick = Callable[[int, bytes], Said]  # of a stream, and its own answer's body
IDLE = 0.1  # seconds, of a pause
ACK = 1


def head(stream: int, *more: tuple[bytes, bytes], status: bytes = b"200", flags: int = END_HEADERS) -> bytes:
    """Of an answer."""
    return frame(HEADERS, flags, stream, coded([(b":status", status), *more]))


def trailer(stream: int, fields: Fields, flags: int = END_HEADERS | END_STREAM) -> bytes:
    """What ends one."""
    return frame(HEADERS, flags, stream, coded(fields))


def answer(stream: int, body: bytes) -> bytes:
    """A whole one."""
    return head(stream) + frame(DATA, END_STREAM, stream, body)


def frames(connection: socket.socket, data: bytes = b"") -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, stream and payload of what comes until the other end closes."""
    while True:
        while len(data) >= 9 and len(data) >= 9 + (length := int.from_bytes(data[:3])):
            kind, flags, stream = struct.unpack("!BBI", data[3:9])
            yield kind, flags, stream, data[9 : 9 + length]
            data = data[9 + length :]
        if not (more := connection.recv(1 << 16)):
            return
        data += more


class Http2Server:
    """It does to each request the trick that the field `trick` names; the answer's own body is that of `own`."""

    def __init__(self, where: Namespace, tricks: Mapping[str, Trick]) -> None:
        self.paths: set[bytes] = set()  # of all that were asked for
        self.connections: dict[bytes, int] = {}  # by `own`
        self._tricks = tricks
        self._numbers = count()
        self._server = TcpServer(where, L7, self._serve)

    def _serve(self, connection: socket.socket) -> None:
        number, decoder, block, lock = next(self._numbers), Decoder(), b"", threading.Lock()
        decoder.max_header_list_size = 1 << 20
        data = b""
        while len(data) < len(PREFACE):
            if not (more := connection.recv(1 << 16)):
                return
            data += more
        connection.sendall(frame(SETTINGS, 0, 0, b""))
        for kind, flags, stream, payload in frames(connection, data[len(PREFACE) :]):
            if kind == SETTINGS and not flags & ACK:
                with lock:
                    connection.sendall(frame(SETTINGS, ACK, 0, b""))
            elif kind in (HEADERS, CONTINUATION):
                block += payload
                if flags & END_HEADERS:
                    fields = dict(decoder.decode(block, raw=True))
                    block = b""
                    self.paths.add(bytes(fields[b":path"]))
                    own = bytes(fields.get(b"own", b""))
                    self.connections[own] = number
                    said = self._tricks.get(bytes(fields.get(b"trick", b"")).decode(), _honest)(stream, own)
                    threading.Thread(target=_say, args=(connection, lock, said), daemon=True).start()

    def close(self) -> None:
        """Listens no more, and ends what is open."""
        self._server.close()


def _honest(stream: int, own: bytes) -> Said:
    return (answer(stream, own),)


def _say(connection: socket.socket, lock: threading.Lock, said: Said) -> None:
    try:
        for words in said:
            if words is None:
                time.sleep(IDLE)
            else:
                with lock:
                    connection.sendall(words)
    except OSError:
        return
