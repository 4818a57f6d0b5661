"""Requests without a pause: `python -m lockgate.bench.route_load ADDRESS PORT CONNECTIONS`, until its input ends.

GETs of one path after the other (see route_versions) on connections that are kept, a new one in place of each that the
other side ends; nothing is tried twice. Each ended request is written as a record: path, when it began and ended on the
monotonic clock, status (0: none).
"""

from __future__ import annotations

import select
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

from .route_versions import PATHS, path_of

RECORD = struct.Struct("<HddH")
_LONGEST = 20.0  # seconds until an answer counts as none
_CHUNK = 200  # records at a time


class Line:
    """One connection with one request on its way."""

    def __init__(self, address: tuple[str, int], number: int) -> None:
        self._address = address
        self.path = number  # each starts elsewhere
        self.socket = self._connect()
        self._read = b""
        self.began = 0.0

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, _LONGEST)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def ask(self) -> None:
        """The next path."""
        self.path = (self.path + 1) % PATHS
        self._read = b""
        self.began = time.monotonic()
        with suppress(OSError):  # told by the answer that does not come
            self.socket.sendall(b"GET %b HTTP/1.1\r\nHost: bench\r\n\r\n" % path_of(self.path).encode())

    def hear(self) -> int | None:
        """The status when the answer is whole, 0 when there will be none, None as long as it is on its way."""
        try:
            chunk = self.socket.recv(65536)
        except OSError:
            chunk = b""
        if not chunk:
            return 0
        self._read += chunk
        head, end, body = self._read.partition(b"\r\n\r\n")
        if not end:
            return None
        lines = head.lower().split(b"\r\n")
        length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)
        return int(lines[0].split(b" ")[1]) if len(body) >= length else None

    def replace(self) -> None:
        """Another connection. While Envoy is dead every try is reset."""
        self.socket.close()
        deadline = time.monotonic() + _LONGEST
        while True:
            try:
                self.socket = self._connect()
                return
            except ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def records(address: tuple[str, int], connections: int) -> Iterator[bytes]:
    """One for each request, until standard input ends and what is on its way then has been answered."""
    lines = [Line(address, number * PATHS // connections) for number in range(connections)]
    selector = selectors.DefaultSelector()
    for line in lines:
        selector.register(line.socket, selectors.EVENT_READ, line)
        line.ask()
    over = False
    while selector.get_map():
        over = over or bool(select.select([sys.stdin], [], [], 0)[0])
        heard = [(key.data, status) for key, _ in selector.select(0.5) if (status := key.data.hear()) is not None]
        now = time.monotonic()
        answered = [line for line, _ in heard]
        late = [
            each
            for each in lines
            if now - each.began > _LONGEST and each not in answered and each.socket in selector.get_map()
        ]
        for line, status in (*heard, *((line, 0) for line in late)):
            yield RECORD.pack(line.path, line.began, now, status)
            if over or not status:
                selector.unregister(line.socket)
            if over:
                continue
            if not status:
                line.replace()
                selector.register(line.socket, selectors.EVENT_READ, line)
            line.ask()


def main(address: str, port: int, connections: int) -> None:
    """Run until standard input ends."""
    waiting: list[bytes] = []
    for record in records((address, port), connections):
        waiting.append(record)
        if len(waiting) >= _CHUNK:
            sys.stdout.buffer.write(b"".join(waiting))
            sys.stdout.buffer.flush()
            waiting.clear()
    sys.stdout.buffer.write(b"".join(waiting))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
