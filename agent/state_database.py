"""The databases in the state directory, and what goes wrong with them in a sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..store.database import open_database
from .errors import StateError


def open_state(path: Path, schema: str) -> sqlite3.Connection:
    """Opens or makes it. Raises StateError when the directory cannot be written, or its file is not ours."""
    with told(path):
        return open_database(path, schema)


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the disk or SQLite say into a StateError."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StateError(
            f"{path}: {reason}; make the directory writable, or move the file away to start afresh"
        ) from error
