"""Whether Envoy's admin interface answers: one question at a time, without waiting for it."""

from __future__ import annotations

import socket
from enum import Enum, auto
from pathlib import Path

_READY = b"GET /ready HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n"


class Reply(Enum):
    """What is known of the last question."""

    NEW = auto()  # it has just been asked
    PENDING = auto()  # asked before, and not answered
    ANSWERED = auto()  # whatever it said
    NOBODY = auto()  # nobody listens there, or has hung up


class Question:
    """Asks again and again, each time it is looked at."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asking: socket.socket | None = None
        self._refused = False  # the queue of those who ask is full

    def look(self) -> Reply:
        """What has become of the last question, and the next one if that is settled."""
        if self._asking is None:
            return self._ask()
        try:
            heard = self._asking.recv(16)
        except BlockingIOError:
            return Reply.PENDING
        except OSError:
            heard = b""
        self.drop()
        self._ask()
        return Reply.ANSWERED if heard else Reply.NOBODY

    def drop(self) -> None:
        """Asks no more of what it asked; the next look begins anew."""
        if self._asking is not None:
            self._asking.close()
        self._asking, self._refused = None, False

    def _ask(self) -> Reply:
        asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            asking.connect(str(self._path))
            asking.sendall(_READY)
        except BlockingIOError:
            asking.close()
            known, self._refused = self._refused, True
            return Reply.PENDING if known else Reply.NEW
        except OSError:
            asking.close()
            return Reply.NOBODY
        self._asking, self._refused = asking, False
        return Reply.NEW
