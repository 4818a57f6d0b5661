"""What was last known of a cluster, kept for an agent that starts while the cluster's API is away."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..database import open_database

_SCHEMA = """
CREATE TABLE IF NOT EXISTS collection (title TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS object (title TEXT, key TEXT, data TEXT NOT NULL, PRIMARY KEY (title, key)) WITHOUT ROWID;
"""


class Memory:
    """A small database, for root only: Secrets are in it. Its methods block.

    A disk that cannot be written costs the memory, not the node: `problem` says so.
    """

    def __init__(self, path: Path) -> None:
        self.problem = ""
        self._path = path
        self._database: sqlite3.Connection | None = None
        self._written: dict[str, dict[str, dict[str, Any]]] = {}
        self._turn = threading.RLock()

    def recall(self) -> dict[str, dict[str, dict[str, Any]]]:
        """The objects of each collection that was known as a whole, by the collection's title."""
        with self._turn:
            return self._recall()

    def keep(self, known: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
        """Writes what is different from what was written last. A collection that is not in `known` is forgotten."""
        with self._turn:
            self._write(known)

    def close(self) -> None:
        """Closes the database."""
        with self._turn:
            if self._database is not None:
                self._database.close()
                self._database = None

    def _recall(self) -> dict[str, dict[str, dict[str, Any]]]:
        try:
            database = self._open()
            found: dict[str, dict[str, dict[str, Any]]] = {
                title: {} for (title,) in database.execute("SELECT title FROM collection")
            }
            for title, key, data in database.execute("SELECT title, key, data FROM object"):
                if title in found:
                    found[title][key] = json.loads(data)
        except (OSError, sqlite3.Error, ValueError) as error:
            self._fails(error)
            return {}
        self._written = {title: dict(objects) for title, objects in found.items()}
        return found

    def _write(self, known: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
        try:
            database = self._open()
            with database:
                database.execute("BEGIN")
                for title in self._written.keys() - known.keys():
                    database.execute("DELETE FROM collection WHERE title = ?", (title,))
                    database.execute("DELETE FROM object WHERE title = ?", (title,))
                for title, objects in known.items():
                    self._keep(database, title, objects)
        except (OSError, sqlite3.Error) as error:
            self._fails(error)
        else:
            self._written = {title: dict(objects) for title, objects in known.items()}
            self.problem = ""

    def _keep(self, database: sqlite3.Connection, title: str, objects: Mapping[str, dict[str, Any]]) -> None:
        before = self._written.get(title)
        if before is None:
            database.execute("INSERT OR IGNORE INTO collection VALUES (?)", (title,))
            database.execute("DELETE FROM object WHERE title = ?", (title,))
            before = {}
        database.executemany(
            "DELETE FROM object WHERE title = ? AND key = ?", [(title, key) for key in before.keys() - objects.keys()]
        )
        database.executemany(
            "INSERT OR REPLACE INTO object VALUES (?, ?, ?)",
            [
                (title, key, json.dumps(told))
                for key, told in objects.items()
                if (known := before.get(key)) is not told and known != told
            ],
        )

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            self._database = open_database(self._path, _SCHEMA)
        return self._database

    def _fails(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else error
        self.problem = (
            f"kubernetes: {self._path}: {reason}; without it no agent can start while the API is away: make it "
            "writable, or remove it if it is broken"
        )
        self._written = {}  # what is on the disk is anybody's guess
        self.close()
