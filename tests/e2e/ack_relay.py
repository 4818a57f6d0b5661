"""Stands between Envoy and the agent's xDS socket, and swallows what Envoy says there: frames with data of HTTP/2
streams, so that both ends go on believing in the stream.

https://www.rfc-editor.org/rfc/rfc9113#name-frame-format
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

_PREFACE = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_HEAD = 9
_DATA = 0
_EVERY = 1 << 31


class _Passage:
    """One connection. `deaf_to`: of streams up to this number nothing comes through."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.newest = 0
        self.deaf_to = 0

    def start(self) -> None:
        for pump in (self._forth, self._back):
            threading.Thread(target=pump, daemon=True).start()

    def _forth(self) -> None:
        with suppress(OSError, EOFError):
            self.server.sendall(self._take(_PREFACE))
            while True:
                head = self._take(_HEAD)
                body = self._take(int.from_bytes(head[:3], "big"))
                stream = int.from_bytes(head[5:], "big") & ~_EVERY
                self.newest = max(self.newest, stream)
                if head[3] != _DATA or stream > self.deaf_to:
                    self.server.sendall(head + body)
        self.close()

    def _back(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65536):
                self.client.sendall(data)
        self.close()

    def _take(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            more = self.client.recv(size - len(taken))
            if not more:
                raise EOFError
            taken += more
        return taken

    def close(self) -> None:
        for each in (self.client, self.server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class AckRelay:
    """In the place of `path`. Who is connected already is not concerned."""

    def __init__(self, path: Path) -> None:
        self._real = path.with_name("real.sock")
        path.rename(self._real)
        self._passages: list[_Passage] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                passage = _Passage(client, server)
                try:
                    server.connect(str(self._real))
                except OSError:
                    passage.close()
                    continue
                self._passages.append(passage)
                passage.start()

    def swallow_streams(self) -> None:
        """From now on what comes on the streams that there are; others come through."""
        for each in self._passages:
            each.deaf_to = each.newest

    def swallow_connections(self) -> None:
        """The same of all streams on the connections that there are."""
        for each in self._passages:
            each.deaf_to = _EVERY

    def close(self) -> None:
        """Nobody comes through any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for each in self._passages:
            each.close()
