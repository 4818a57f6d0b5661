"""Requests that go on while something happens to a node: what each kind of them is told, all the time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, fetch

ALLOWED = "200 yes"
_PATIENCE = 20.0  # seconds
_PAUSE = 0.02


class Load:
    """While it is open: `frontend` asks `server` for what it may and what it may not have, on new connections and on
    one that it keeps, and `intruder`, which may ask for nothing, asks too."""

    expected: ClassVar = {
        "new": {ALLOWED},
        "kept": {ALLOWED},
        "denied": {DENIED},
        "kept, denied": {DENIED},
        "intruder": {DROPPED},
    }

    def __init__(self, frontend: Any, intruder: Any, server: str) -> None:
        def once(client: Any, path: str, patience: float) -> Callable[[], str]:
            return lambda: fetch(client, server, 80, path, patience=patience)

        self._kept = Kept(frontend, server, "/open"), Kept(frontend, server, "/shut")
        allowed, denied = self._kept
        self._ask: dict[str, Callable[[], str]] = {
            "new": once(frontend, "/open", _PATIENCE),
            "kept": allowed.ask,
            "denied": once(frontend, "/shut", _PATIENCE),
            "kept, denied": denied.ask,
            "intruder": once(intruder, "/open", GLANCE),
        }
        self._answers: dict[str, Counter[str]] = {kind: Counter() for kind in self._ask}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(kind,), daemon=True) for kind in self._ask]

    @property
    def seen(self) -> dict[str, set[str]]:
        """The answers of each kind, as `expected` has them."""
        return {kind: set(counted) for kind, counted in self._answers.items()}

    def __str__(self) -> str:
        return str({kind: dict(counted) for kind, counted in self._answers.items()})

    def _go_on(self, kind: str) -> None:
        while not self._over.wait(_PAUSE):
            try:
                answer = self._ask[kind]()
            except Exception as error:  # whatever it is, it is no answer that was expected
                answer = repr(error)
            self._answers[kind][answer] += 1

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * _PATIENCE)
        for kept in self._kept:
            kept.close()


class Kept:
    """One connection; another only after the server has said that this one ends."""

    def __init__(self, client: Any, server: str, path: str) -> None:
        self._client, self._server, self._path = client, server, path
        self._connection = http.client.HTTPConnection(server, 80, timeout=_PATIENCE)
        self._connection.auto_open = 0

    def ask(self) -> str:
        """Raises whatever goes wrong."""
        if self._connection.sock is None:  # closed by http.client when an answer says so
            self._connection.sock = netns.run_in(
                self._client.path, lambda: socket.create_connection((self._server, 80), timeout=_PATIENCE)
            )
        self._connection.request("GET", self._path)
        answer = self._connection.getresponse()
        return f"{answer.status} {answer.read().decode().strip()}"

    def close(self) -> None:
        """It is needed no more."""
        self._connection.close()
