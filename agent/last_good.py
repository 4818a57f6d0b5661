"""What was accepted last, kept across restarts: a file that breaks while no agent runs must not lift its policies."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from ..policies import Policy, parse_policies
from .errors import StateError
from .intake import Intake

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted (
    source TEXT NOT NULL, policy TEXT NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (source, policy)
) WITHOUT ROWID;
"""


class LastGood:
    """A small database in the state directory: for each source and policy the document it was last accepted from."""

    def __init__(self, state_dir: Path) -> None:
        """Opens or makes it.

        Raises:
            StateError: the directory cannot be written, or the file in it is not ours.
        """
        path = state_dir / "accepted.db"
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._database = sqlite3.connect(path, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"{path}: {error}; make the directory writable, or move the file away to start afresh"
            ) from error
        self._written: dict[str, object] = {}

    def recall(self, source: str) -> tuple[Policy, ...]:
        """The policies last accepted from `source`, read again from the documents they were accepted from."""
        rows = self._database.execute(
            "SELECT accepted.policy, document.data FROM accepted JOIN document USING (digest) WHERE source = ?",
            (source,),
        ).fetchall()
        parsed: dict[bytes, dict[str, Policy]] = {}
        found: list[Policy] = []
        for policy, data in rows:
            if data not in parsed:
                parsed[data] = {repr(entry.key): entry for entry in parse_policies(data, source).policies}
            if policy in parsed[data]:
                found.append(parsed[data][policy])
        return tuple(found)

    def remember(self, intake: Intake) -> None:
        """Stores what `intake` accepted; only files that changed since the last call are written."""
        changed = [
            (source, file) for source, file in intake.files.items() if self._written.get(source) is not file.document
        ]
        gone = set(self._written) - set(intake.files)
        if not changed and not gone:
            return
        with self._database:
            self._database.execute("BEGIN")
            for source in gone:
                self._database.execute("DELETE FROM accepted WHERE source = ?", (source,))
            for source, file in changed:
                kept = [repr(policy.key) for policy in file.kept]
                marks = ",".join("?" * len(kept))
                self._database.execute(
                    f"DELETE FROM accepted WHERE source = ? AND policy NOT IN ({marks})", (source, *kept)
                )
                if file.parsed.policies:
                    digest = hashlib.sha256(file.document.data).digest()
                    self._database.execute("INSERT OR IGNORE INTO document VALUES (?, ?)", (digest, file.document.data))
                    self._database.executemany(
                        "INSERT OR REPLACE INTO accepted VALUES (?, ?, ?)",
                        [(source, repr(policy.key), digest) for policy in file.parsed.policies],
                    )
            self._database.execute("DELETE FROM document WHERE digest NOT IN (SELECT digest FROM accepted)")
        for source in gone:
            del self._written[source]
        for source, file in changed:
            self._written[source] = file.document

    def close(self) -> None:
        """Closes the database."""
        self._database.close()
