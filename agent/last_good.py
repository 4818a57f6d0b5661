"""What was accepted last, kept across restarts: a file that breaks while no agent runs must not lift its policies."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from ..policies import Policy, parse_policies, parse_workloads
from ..policies.secret import Secret
from ..policies.service import Service
from ..policies.workload import Workload
from ..store import Document
from .errors import StateError
from .intake import Intake

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted_entry (
    kind TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (kind, source, name)
) WITHOUT ROWID;
"""

_Kind: TypeAlias = Literal["policy", "secret", "workload", "service"]


@dataclass(frozen=True, slots=True)
class _Accepted:
    """One document, and when asked the names of what is enforced of it: `fresh` from its own bytes, `kept` from older
    ones."""

    document: Document
    fresh: Callable[[], tuple[str, ...]]
    kept: Callable[[], tuple[str, ...]]

    def same_as(self, other: _Accepted | None) -> bool:
        """True when storing the one is as good as storing the other."""
        if other is None or self.document is not other.document:
            return False
        return (self.fresh, self.kept) == (other.fresh, other.kept)


@dataclass(slots=True)
class LastGood:
    """A small database in the state directory: for each source and entry the document it was last accepted from.

    Every method may raise StateError. Not for two threads at once.
    """

    path: Path
    _database: sqlite3.Connection
    _written: dict[tuple[_Kind, str], _Accepted] = field(default_factory=dict)

    @classmethod
    def open(cls, state_dir: Path) -> LastGood:
        """Opens or makes it. Raises StateError when the directory cannot be written, or its file is not ours."""
        path = state_dir / "accepted.db"
        with _told(path):
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                path.chmod(0o600)  # there may be Secrets among the documents
                database.execute("PRAGMA journal_mode=WAL")
                database.execute("PRAGMA synchronous=NORMAL")
                database.executescript(_SCHEMA)
            except BaseException:
                database.close()
                raise
        return cls(path, database)

    def policies(self, source: str) -> tuple[Policy, ...]:
        """The policies last accepted from `source`, read again from the documents they were accepted from."""
        found: list[Policy] = []
        for data, names in self._recall("policy", source):
            found += [policy for policy in parse_policies(data, source).policies if repr(policy.key) in names]
        return tuple(found)

    def secrets(self, source: str) -> tuple[Secret, ...]:
        """The same for Secrets."""
        found: list[Secret] = []
        for data, names in self._recall("secret", source):
            found += [secret for secret in parse_policies(data, source).secrets if str(secret.ref) in names]
        return tuple(found)

    def workloads(self, source: str) -> tuple[Workload, ...]:
        """The same for workloads."""
        found: list[Workload] = []
        for data, names in self._recall("workload", source):
            found += [workload for workload in parse_workloads(data, source).workloads if workload.key in names]
        return tuple(found)

    def services(self, source: str) -> tuple[Service, ...]:
        """The same for services."""
        found: list[Service] = []
        for data, names in self._recall("service", source):
            found += [service for service in parse_workloads(data, source).services if service.key in names]
        return tuple(found)

    def remember(self, intake: Intake) -> None:
        """Stores what `intake` accepted; only files that changed since the last call are written."""
        now = {(kind, accepted.document.source): accepted for kind, accepted in _accepted(intake)}
        changed = {key: accepted for key, accepted in now.items() if not accepted.same_as(self._written.get(key))}
        gone = (self._written.keys() if self._written else self._stored()) - now.keys()
        if not changed and not gone:
            return
        with _told(self.path), self._database:
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM accepted_entry WHERE kind = ? AND source = ?", sorted(gone))
            for (kind, source), accepted in changed.items():
                self._write(kind, source, accepted)
            self._database.execute("DELETE FROM document WHERE digest NOT IN (SELECT digest FROM accepted_entry)")
        self._written = now

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def _recall(self, kind: _Kind, source: str) -> Iterator[tuple[bytes, set[str]]]:
        """Each document with the names of what was accepted from it."""
        with _told(self.path):
            rows = self._database.execute(
                "SELECT data, name FROM accepted_entry JOIN document USING (digest) WHERE kind = ? AND source = ?",
                (kind, source),
            ).fetchall()
        names: dict[bytes, set[str]] = {}
        for data, name in rows:
            names.setdefault(data, set()).add(name)
        yield from names.items()

    def _stored(self) -> set[tuple[_Kind, str]]:
        with _told(self.path):
            return set(self._database.execute("SELECT DISTINCT kind, source FROM accepted_entry").fetchall())

    def _write(self, kind: _Kind, source: str, accepted: _Accepted) -> None:
        fresh, kept = accepted.fresh(), accepted.kept()
        marks = ",".join("?" * len(kept))
        self._database.execute(
            f"DELETE FROM accepted_entry WHERE kind = ? AND source = ? AND name NOT IN ({marks})",
            (kind, source, *kept),
        )
        if fresh:
            data = accepted.document.data
            digest = hashlib.sha256(data).digest()
            self._database.execute("INSERT OR IGNORE INTO document VALUES (?, ?)", (digest, data))
            self._database.executemany(
                "INSERT OR REPLACE INTO accepted_entry VALUES (?, ?, ?, ?)",
                [(kind, source, name, digest) for name in fresh],
            )


def _accepted(intake: Intake) -> Iterable[tuple[_Kind, _Accepted]]:
    for file in intake.files.values():
        yield (
            "policy",
            _Accepted(file.document, partial(_policy_keys, file.parsed.policies), partial(_policy_keys, file.kept)),
        )
        if not file.plain and file.accepted_secrets:
            fresh, kept = partial(_secret_refs, file.parsed.secrets), partial(_secret_refs, file.kept_secrets)
            yield "secret", _Accepted(file.document, fresh, kept)
    for listed in intake.workload_files.values():
        parsed, document = listed.parsed, listed.document
        yield "workload", _Accepted(document, partial(_keys, parsed.workloads), partial(_keys, listed.kept))
        yield "service", _Accepted(document, partial(_keys, parsed.services), partial(_keys, listed.kept_services))


def _policy_keys(policies: Iterable[Policy]) -> tuple[str, ...]:
    return tuple(repr(policy.key) for policy in policies)


def _secret_refs(secrets: Iterable[Secret]) -> tuple[str, ...]:
    return tuple(str(secret.ref) for secret in secrets)


def _keys(entries: Iterable[Workload | Service]) -> tuple[str, ...]:
    return tuple(entry.key for entry in entries)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what the disk or SQLite say into a sentence."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StateError(
            f"{path}: {reason}; make the directory writable, or move the file away to start afresh"
        ) from error
