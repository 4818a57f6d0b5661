"""A small database for what must outlive a process."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def open_database(path: Path, schema: str) -> sqlite3.Connection:
    """Opens it, or makes it and its folder; for root only, as there may be Secrets in it. `schema` is SQL that may run
    again. Any thread may use it, one at a time. Raises OSError, sqlite3.Error."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        path.chmod(0o600)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database
