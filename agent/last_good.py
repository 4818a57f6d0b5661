"""What was accepted last, kept across restarts: a file that breaks while no agent runs must not lift its policies."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from ..policies import Policy, parse_policies, parse_workloads
from ..policies.secret import Secret
from ..policies.service import Service
from ..policies.workload import Workload
from ..store import Document
from .errors import StateError
from .intake import Intake, PolicyFile, WorkloadFile

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted_entry (
    kind TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (kind, source, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accepted_digest ON accepted_entry (digest);
"""

_Kind: TypeAlias = Literal["policy", "secret", "workload", "service"]
_POLICY_FILE: tuple[_Kind, ...] = ("policy", "secret")
_WORKLOAD_FILE: tuple[_Kind, ...] = ("workload", "service")
_File: TypeAlias = PolicyFile | WorkloadFile
_Files: TypeAlias = Mapping[tuple[_Kind, ...], Mapping[str, _File]]  # by what they may hold, then by source


@dataclass(frozen=True, slots=True)
class _Accepted:
    """The names of what is enforced of one document: `fresh` from its own bytes, `kept` from older ones."""

    kind: _Kind
    document: Document
    fresh: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(slots=True)
class LastGood:
    """A small database in the state directory: for each source and entry the document it was last accepted from.

    Every method may raise StateError. Not for two threads at once.
    """

    path: Path
    _database: sqlite3.Connection
    _written: _Files | None = None  # None: what an earlier agent wrote, which only the database knows

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
        """Stores what `intake` accepted; only files that changed since the last call are looked at."""
        now: _Files = {_POLICY_FILE: intake.files, _WORKLOAD_FILE: intake.workload_files}
        written = self._written or {kinds: {} for kinds in now}
        changed = [
            file
            for kinds, files in now.items()
            for source, file in files.items()
            if written[kinds].get(source) is not file
        ]
        known = self._stored() if self._written is None else {kinds: files.keys() for kinds, files in written.items()}
        gone = [(kind, source) for kinds in now for source in known[kinds] - now[kinds].keys() for kind in kinds]
        if changed or gone:
            with _told(self.path), self._database:
                self._database.execute("BEGIN")
                orphans: set[bytes] = set()
                for file in changed:
                    for accepted in _accepted(file):
                        orphans |= self._write(accepted)
                for kind, source in gone:
                    orphans |= self._forget(kind, source)
                self._database.executemany(
                    "DELETE FROM document WHERE digest = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM accepted_entry WHERE digest = ?1)",
                    [(digest,) for digest in orphans],
                )
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

    def _stored(self) -> dict[tuple[_Kind, ...], Set[str]]:
        """The sources that the database knows, as `_Files` groups them."""
        with _told(self.path):
            rows = self._database.execute("SELECT DISTINCT kind, source FROM accepted_entry").fetchall()
        return {kinds: {source for kind, source in rows if kind in kinds} for kinds in (_POLICY_FILE, _WORKLOAD_FILE)}

    def _write(self, accepted: _Accepted) -> set[bytes]:
        """Returns the digests of documents that may not be needed any more."""
        kind, document = accepted.kind, accepted.document
        place = (kind, document.source)
        stored: dict[str, bytes] = dict(
            self._database.execute("SELECT name, digest FROM accepted_entry WHERE kind = ? AND source = ?", place)
        )
        wanted = {name: stored[name] for name in accepted.kept if name in stored}
        if accepted.fresh:
            digest = hashlib.sha256(document.data).digest()
            wanted |= dict.fromkeys(accepted.fresh, digest)
            if any(stored.get(name) != digest for name in accepted.fresh):
                self._database.execute("INSERT OR IGNORE INTO document VALUES (?, ?)", (digest, document.data))
        if wanted == stored:
            return set()
        self._database.executemany(
            "DELETE FROM accepted_entry WHERE kind = ? AND source = ? AND name = ?",
            [(*place, name) for name in stored.keys() - wanted.keys()],
        )
        self._database.executemany(
            "INSERT OR REPLACE INTO accepted_entry VALUES (?, ?, ?, ?)",
            [(*place, name, digest) for name, digest in wanted.items() if stored.get(name) != digest],
        )
        return {*stored.values()} - {*wanted.values()}

    def _forget(self, kind: _Kind, source: str) -> set[bytes]:
        """As `_write`."""
        deletion = "DELETE FROM accepted_entry WHERE kind = ? AND source = ? RETURNING digest"
        return {digest for (digest,) in self._database.execute(deletion, (kind, source))}


def _accepted(file: _File) -> Iterator[_Accepted]:
    document = file.document
    if isinstance(file, PolicyFile):
        yield _Accepted("policy", document, _policy_keys(file.parsed.policies), _policy_keys(file.kept))
        yield _Accepted("secret", document, _secret_refs(file.parsed.secrets), _secret_refs(file.kept_secrets))
    else:
        yield _Accepted("workload", document, _keys(file.parsed.workloads), _keys(file.kept))
        yield _Accepted("service", document, _keys(file.parsed.services), _keys(file.kept_services))


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
