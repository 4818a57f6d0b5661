"""Names that outlive the agent: what was learned stays allowed across a restart for as long as it would have been."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from ..state_database import open_state, told
from .names import Learned, NameCache

_SCHEMA = """
CREATE TABLE IF NOT EXISTS learned (
    client TEXT NOT NULL, name TEXT NOT NULL, address TEXT NOT NULL, noted REAL NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (client, name, address)
) WITHOUT ROWID;
"""


@dataclass(slots=True)
class NameMemory:
    """A table in the state directory. Times are wall-clock seconds there; `seconds` is how long each is good for.

    Every method may raise StateError. One that is called in another thread meanwhile waits.
    """

    path: Path
    _database: sqlite3.Connection
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, state_dir: Path) -> NameMemory:
        """Opens or makes it."""
        path = state_dir / "names.db"
        return cls(path, open_state(path, _SCHEMA))

    def recall(self, cache: NameCache, now: float, wall: float) -> None:
        """Puts everything into `cache`. `now` is the cache's clock, `wall` the wall clock.

        Should the wall clock have stepped back, nothing is good for longer than it was at first.
        """
        with self._turn, told(self.path):
            rows = self._database.execute("SELECT client, name, address, noted, seconds FROM learned").fetchall()
        for client, name, address, noted, seconds in rows:
            left = min(seconds - (wall - noted), seconds)
            cache.restore(Learned(client, name, ip_address(address)), now + left)

    def note(self, touched: Iterable[tuple[Learned, float | None]], now: float, wall: float) -> None:
        """Writes down until when each is known; None is forgotten."""
        kept, gone = [], []
        for learned, expires in touched:
            key = (learned.client, learned.name, str(learned.address))
            if expires is None:
                gone.append(key)
            else:
                kept.append((*key, wall, expires - now))
        with self._turn, told(self.path), self._database:
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM learned WHERE (client, name, address) = (?, ?, ?)", gone)
            self._database.executemany("INSERT OR REPLACE INTO learned VALUES (?, ?, ?, ?, ?)", kept)

    def close(self) -> None:
        """Closes the database."""
        with self._turn:
            self._database.close()
