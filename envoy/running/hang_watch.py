"""The supervisor's watch over the Envoys that it runs: which of them hangs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .envoy_watch import EnvoyWatch, interval


class Hung(NamedTuple):
    """An Envoy that has been silent for as long as one may be."""

    pid: int
    how: str


class HangWatch:
    """Looks at them at intervals. `limit` is how many seconds one may be silent, 0 for any number."""

    def __init__(self, admin: Path, limit: float) -> None:
        self._admin = admin
        self._limit = limit
        self._watches: dict[int, EnvoyWatch] = {}
        self._next = 0.0

    @property
    def limit(self) -> float:
        """Seconds."""
        return self._limit

    @limit.setter
    def limit(self, limit: float) -> None:
        self._limit, self._next = limit, 0.0
        self._keep(())

    def due(self, pids: tuple[int, ...]) -> float | None:
        """When to look at these again; None when there is nothing to look at."""
        return self._next if self._limit and pids else None

    def look(self, now: float, pids: tuple[int, ...], answering: int) -> list[Hung]:
        """Those that hang, each once. `answering` is the one whose admin interface is asked, 0 for none."""
        self._keep(pids)
        if not self._limit or now < self._next:
            return []
        self._next = now + interval(self._limit)
        hung = []
        for pid in pids:
            watch = self._watches.get(pid) or EnvoyWatch(pid, self._limit)
            self._watches[pid] = watch
            was, _ = watch.longest
            watch.look(now, self._admin if pid == answering else None)
            seconds, thread = watch.longest
            if was < self._limit <= seconds:
                hung.append(Hung(pid, f"hung ({thread}: nothing for {seconds:.0f} s) and was killed"))
        return hung

    def silence(self, pid: int) -> tuple[float, str]:
        """Seconds for which a thread of it has been silent, when that is worth telling, and its name; else 0."""
        watch = self._watches.get(pid)
        seconds, thread = watch.longest if watch is not None else (0.0, "")
        return (seconds, thread) if seconds and seconds >= self._limit / 3 else (0.0, "")

    def _keep(self, pids: tuple[int, ...]) -> None:
        for pid in self._watches.keys() - set(pids):
            self._watches.pop(pid).close()
