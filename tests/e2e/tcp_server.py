"""A TCP server in a pod that does with each connection what a test says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns


class TcpServer:
    """`serve` gets each connection in a thread of its own, and may leave it open; an OSError ends it. `window` are the
    bytes that the kernel takes before the server has read any, if not its own."""

    def __init__(
        self, where: Namespace, port: int, serve: Callable[[socket.socket], None], window: int | None = None
    ) -> None:
        self.connections: list[socket.socket] = []
        self._serve = serve
        self._socket = netns.run_in(where.path, lambda: self._listen(port, window))
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def _listen(port: int, window: int | None) -> socket.socket:
        made = socket.socket(socket.AF_INET6)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if window is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made.bind(("::", port))
        made.listen(1024)
        return made

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections.append(connection)
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._serve(connection)

    def close(self) -> None:
        """Listens no more, and ends what is open."""
        for each in (self._socket, *self.connections):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
