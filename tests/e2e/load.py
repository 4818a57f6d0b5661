"""Requests that go on while something happens to a node: what each kind of them is told, all the time."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from lockgate.redirect.kernel import netns

PATIENCE = 20.0  # seconds
_PAUSE = 0.02


class Load:
    """While it is open every kind of `asks` is asked again and again, beside the others."""

    def __init__(self, asks: Mapping[str, Callable[[], str]]) -> None:
        self._asks = asks
        self._answers: dict[str, Counter[str]] = {kind: Counter() for kind in asks}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=(kind,), daemon=True) for kind in asks]

    @property
    def seen(self) -> dict[str, set[str]]:
        """The answers of each kind."""
        return {kind: set(counted) for kind, counted in self._answers.items()}

    def forget(self) -> None:
        """What was answered until now."""
        for counted in self._answers.values():
            counted.clear()

    def __str__(self) -> str:
        return str({kind: dict(counted) for kind, counted in self._answers.items()})

    def _go_on(self, kind: str) -> None:
        while not self._over.wait(_PAUSE):
            try:
                answer = self._asks[kind]()
            except Exception as error:  # whatever it is, it is no answer that was expected
                answer = repr(error)
            self._answers[kind][answer] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)


class Kept:
    """One connection; another only after the server has said that this one ends."""

    def __init__(self, client: Any, server: str, path: str, port: int = 80) -> None:
        self._client, self._server, self._path = client, (server, port), path
        self._connection = http.client.HTTPConnection(*self._server, timeout=PATIENCE)
        self._connection.auto_open = 0

    def ask(self) -> str:
        """Raises whatever goes wrong."""
        if self._connection.sock is None:  # closed by http.client when an answer says so
            self._connection.sock = netns.run_in(
                self._client.path, lambda: socket.create_connection(self._server, timeout=PATIENCE)
            )
        self._connection.request("GET", self._path)
        answer = self._connection.getresponse()
        return f"{answer.status} {answer.read().decode().strip()}".strip()

    def close(self) -> None:
        """It is needed no more."""
        self._connection.close()
