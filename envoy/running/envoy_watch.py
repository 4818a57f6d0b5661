"""Notices an Envoy that lives and does nothing: its main thread, by its admin interface, and each of its workers.

A worker that hangs keeps the connections that it has, and gets more: the kernel divides them among all. Envoy's own
watchdog could end Envoy for that, but not while all of Envoy is stopped, and it does not know a worker that hangs from
one that is starved: it judges by the clock alone.
"""

from __future__ import annotations

from pathlib import Path

from .question import Question, Reply
from .silence import Silence
from .thread_looks import look_at, threads

_WORKERS = "wrk:"
_FEWEST_SECONDS, _MOST_SECONDS = 0.5, 3.0  # between two looks
_LOOKS = 10


def interval(limit: float) -> float:
    """Seconds between two looks for an Envoy that may be silent for `limit`."""
    return min(_MOST_SECONDS, max(_FEWEST_SECONDS, limit / _LOOKS))


class EnvoyWatch:
    """Looks at one Envoy that may be silent for `limit` seconds."""

    def __init__(self, pid: int, limit: float) -> None:
        self._pid = pid
        self._longest = 2 * interval(limit)
        self._threads = {pid: ("main thread", Silence(self._longest))}
        self._question: Question | None = None

    def look(self, now: float, admin: Path | None) -> None:
        """Once more. `admin` is the socket of its admin interface, None where another one may have taken that over."""
        for thread, name in threads(self._pid, _WORKERS):
            if thread not in self._threads:
                self._threads[thread] = (name, Silence(self._longest))
        answers = self._ask(admin)
        for thread, (_, silence) in self._threads.items():
            silence.look(now, look_at(self._pid, thread), answers if thread == self._pid else None)

    @property
    def longest(self) -> tuple[float, str]:
        """For how many seconds a thread has been silent, and which."""
        return max((silence.seconds, name) for name, silence in self._threads.values())

    def close(self) -> None:
        """Looks no more."""
        if self._question is not None:
            self._question.drop()

    def _ask(self, admin: Path | None) -> bool | None:
        if admin is None:
            self.close()
            self._question = None
            return None
        self._question = self._question or Question(admin)
        match self._question.look():
            case Reply.ANSWERED:
                return True
            case Reply.PENDING:
                return False
        return None
