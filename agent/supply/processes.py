"""Which process a workload's pid means: the one that had the number when it was listed, and none that gets it later.

A process is told from others of its number by when it started, in clock ticks since boot. Entries that say so
themselves (`born`, as those of engines and Kubernetes do) need no memory.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ...policies.workload import Workload
from ...redirect.device import Device
from ...redirect.errors import NamespaceGoneError, NotSeenError
from ...store.process import born
from ..state_database import open_state, told

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meant (
    workload TEXT NOT NULL, pid INTEGER NOT NULL, born INTEGER NOT NULL, boot TEXT NOT NULL,
    PRIMARY KEY (workload, pid)
) WITHOUT ROWID;
"""
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_Place: TypeAlias = tuple[str, int]  # a workload's key and its pid


@dataclass(slots=True)
class Processes:
    """A table in the state directory. What was noted before the machine was started anew is of no use and forgotten."""

    path: Path
    _database: sqlite3.Connection
    _boot: str
    _meant: dict[_Place, int] = field(default_factory=dict)
    _written: dict[_Place, int] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)  # an agent that ends closes it, whoever still writes

    @classmethod
    def open(cls, state_dir: Path) -> Processes:
        """Opens or makes it. Raises StateError."""
        path = state_dir / "processes.db"
        boot = _BOOT.read_text().strip()
        database = open_state(path, _SCHEMA)
        with told(path), database:
            database.execute("DELETE FROM meant WHERE boot != ?", (boot,))
            rows = database.execute("SELECT workload, pid, born FROM meant").fetchall()
        known = {(workload, pid): start for workload, pid, start in rows}
        return cls(path, database, boot, dict(known), known)

    def device(self, workload: Workload, find: Callable[[Workload], Device]) -> Device:
        """What `find` finds, if the workload's process is still the one that is meant.

        Raises NamespaceGoneError when another one has its number, and what `find` raises.
        """
        pid = workload.pid
        if pid is None:
            return find(workload)
        place = (workload.key, pid)
        meant = workload.born or self._meant.get(place) or _born(pid)
        if meant is not None and workload.born is None:
            self._meant[place] = meant
        device = find(workload)
        if _born(pid) != meant:  # it has lived all the while, so what was found is its
            raise NamespaceGoneError(
                f"process {pid} is not the one that the workload was listed with: that has ended, and another has its "
                "number; write the pid of the workload's own process, or take the workload off the list"
            )
        return device

    def keep(self, workloads: Iterable[Workload]) -> None:
        """Write down what is known of these, and forget all others. Raises StateError."""
        listed = {(workload.key, workload.pid) for workload in workloads if workload.born is None}
        self._meant = {place: start for place, start in self._meant.items() if place in listed}
        if self._meant == self._written:
            return
        rows = [(*place, start, self._boot) for place, start in self._meant.items()]
        with self._turn, told(self.path), self._database:
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM meant")
            self._database.executemany("INSERT INTO meant VALUES (?, ?, ?, ?)", rows)
        self._written = dict(self._meant)

    def close(self) -> None:
        """Closes the database."""
        with self._turn:
            self._database.close()


def _born(pid: int) -> int | None:
    try:
        return born(pid)
    except OSError as error:
        raise NotSeenError(
            f"process {pid} cannot be looked at ({error}); what is known of it holds meanwhile"
        ) from error
