"""A UDP server in a namespace, for both families."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType

from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns


class UdpEcho:
    """Answers each datagram with `answer`, or else with the first 100 bytes of it.

    An error ends its thread and so fails the test that runs then. `close` waits for the thread: nothing is closed under
    it, and no namespace outlives its test by a socket that somebody still reads.
    """

    def __init__(self, where: Namespace, port: int, answer: bytes = b"") -> None:
        self._answer = answer
        self._socket = netns.run_in(where.path, _open)
        self._socket.bind(("::", port))
        self._end, self._ended = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"echo at {where.netns} {port}", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with self._socket, self._ended, selectors.DefaultSelector() as ready:
            for each in (self._socket, self._ended):
                ready.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select():
                    if key.fileobj is self._ended:
                        return
                    self._echo()

    def _echo(self) -> None:
        try:
            data, client = self._socket.recvfrom(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:  # its checksum was wrong
            return
        self._socket.sendto(self._answer or data[:100], client)

    def close(self) -> None:
        """Returns when it has ended."""
        self._end.close()
        self._thread.join()

    def __enter__(self) -> UdpEcho:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open() -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return made
