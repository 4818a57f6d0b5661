"""What was accepted last, kept across restarts: a file that breaks while no agent runs must not lift its policies."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

from ...policies import Policy, parse_policies, parse_workloads
from ...policies.difference import other_values
from ...policies.node import Node
from ...policies.secret import Secret
from ...policies.service import Service
from ...policies.workload import Workload
from ..errors import StateError
from ..refusal.containment import Refusal
from ..refusal.overfull import Overfull
from ..state_database import open_state, told
from .intake import Intake, PolicyFile, WorkloadFile

log = logging.getLogger("lockgate.agent")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS document (digest BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted_entry (
    kind TEXT NOT NULL, source TEXT NOT NULL, name TEXT NOT NULL, digest BLOB NOT NULL,
    PRIMARY KEY (kind, source, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS accepted_digest ON accepted_entry (digest);
"""

_Kind: TypeAlias = Literal["policy", "secret", "workload", "service", "node"]
_File: TypeAlias = PolicyFile | WorkloadFile
_Files: TypeAlias = Mapping[tuple[_Kind, ...], Mapping[str, _File]]  # by what they may hold, then by source
_Digests: TypeAlias = Mapping[str, bytes]  # of the documents that names were last accepted from
_POLICY_FILE: tuple[_Kind, ...] = ("policy", "secret")
_WORKLOAD_FILE: tuple[_Kind, ...] = ("workload", "service", "node")
_NOTHING: _Digests = MappingProxyType({})


@dataclass(slots=True)
class LastGood:
    """A small database in the state directory: for each source and entry the document it was last accepted from.

    Every method may raise StateError. One that is called in another thread meanwhile waits: an agent that ends closes
    it, whatever a thread of its own still writes.
    """

    path: Path
    _database: sqlite3.Connection
    _written: _Files | None = None  # None: what an earlier agent wrote, which only the database knows
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, state_dir: Path) -> LastGood:
        """Opens or makes it. Raises StateError when the directory cannot be written, or its file is not ours."""
        path = state_dir / "accepted.db"
        return cls(path, open_state(path, _SCHEMA))

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

    def nodes(self, source: str) -> tuple[Node, ...]:
        """The same for nodes."""
        found: list[Node] = []
        for data, names in self._recall("node", source):
            found += [node for node in parse_workloads(data, source).nodes if node.name in names]
        return tuple(found)

    def remember(self, intake: Intake) -> None:
        """Stores what `intake` accepted; only files that changed since the last call are looked at."""
        with self._turn:
            self._remember(intake)

    def close(self) -> None:
        """Closes the database."""
        with self._turn:
            self._database.close()

    def _remember(self, intake: Intake) -> None:
        now: _Files = {_POLICY_FILE: intake.files, _WORKLOAD_FILE: intake.workload_files}
        if self._written is None:
            everything = self._stored()  # quicker than to ask for each of them
            changed = [
                (kind, file, everything.get((kind, source), _NOTHING))
                for kinds, files in now.items()
                for source, file in files.items()
                for kind in kinds
            ]
            gone = [at for at in everything if not any(at[0] in kinds and at[1] in now[kinds] for kinds in now)]
        else:
            before = self._written
            changed = [
                (kind, file, self._stored_of(kind, file.document.source))
                for kinds, files in now.items()
                for file in other_values(files, before[kinds])
                for kind in kinds
            ]
            gone = [(kind, at) for kinds in now for at in before[kinds].keys() - now[kinds].keys() for kind in kinds]
        if changed or gone:
            with told(self.path), self._database:
                self._database.execute("BEGIN")
                orphans: set[bytes] = set()
                for kind, file, stored in changed:
                    orphans |= self._write(kind, file, stored)
                for kind, source in gone:
                    orphans |= self._forget(kind, source)
                self._database.executemany(
                    "DELETE FROM document WHERE digest = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM accepted_entry WHERE digest = ?1)",
                    [(digest,) for digest in orphans],
                )
        self._written = now

    def _recall(self, kind: _Kind, source: str) -> Iterator[tuple[bytes, set[str]]]:
        """Each document with the names of what was accepted from it."""
        with self._turn, told(self.path):
            rows = self._database.execute(
                "SELECT data, name FROM accepted_entry JOIN document USING (digest) WHERE kind = ? AND source = ?",
                (kind, source),
            ).fetchall()
        names: dict[bytes, set[str]] = {}
        for data, name in rows:
            names.setdefault(data, set()).add(name)
        yield from names.items()

    def _stored(self) -> dict[tuple[_Kind, str], dict[str, bytes]]:
        """What is there, by kind and source."""
        found: dict[tuple[_Kind, str], dict[str, bytes]] = {}
        with told(self.path):
            rows = self._database.execute("SELECT kind, source, name, digest FROM accepted_entry").fetchall()
        for kind, source, name, digest in rows:
            found.setdefault((kind, source), {})[name] = digest
        return found

    def _stored_of(self, kind: _Kind, source: str) -> _Digests:
        """The same of one."""
        query = "SELECT name, digest FROM accepted_entry WHERE kind = ? AND source = ?"
        with told(self.path):
            return dict(self._database.execute(query, (kind, source)))

    def _write(self, kind: _Kind, file: _File, stored: _Digests) -> set[bytes]:
        """`stored` is what is there already. Returns the digests of documents that may not be needed any more."""
        document, place = file.document, (kind, file.document.source)
        fresh, kept = _names(kind, file)
        wanted = {name: stored[name] for name in kept if name in stored}
        if fresh:
            digest = hashlib.sha256(document.data).digest()
            wanted |= dict.fromkeys(fresh, digest)
            if any(stored.get(name) != digest for name in fresh):
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


def _names(kind: _Kind, file: _File) -> tuple[list[str], list[str]]:
    """What is enforced of a file from its own bytes, and from older ones."""
    if isinstance(file, PolicyFile):
        if kind == "policy":
            return [repr(each.key) for each in file.parsed.policies], [repr(each.key) for each in file.kept]
        return [str(each.ref) for each in file.parsed.secrets], [str(each.ref) for each in file.kept_secrets]
    if kind == "workload":
        return [each.key for each in file.parsed.workloads], [each.key for each in file.kept]
    if kind == "node":
        return [each.name for each in file.parsed.nodes], [each.name for each in file.kept_nodes]
    return [each.key for each in file.parsed.services], [each.key for each in file.kept_services]


async def keep(memory: LastGood, intake: Intake, refusals: Iterable[Refusal | Overfull], before: str) -> str:
    """Remembers what `intake` accepted and nobody refused. What keeps a node from surviving a restart with a
    broken file, in a sentence that is logged unless it is the one `before`; empty when nothing does."""
    stand_ins = {each.policy.key: each.remembered for each in refusals}
    try:
        await asyncio.to_thread(memory.remember, intake.with_stand_ins(stand_ins))
    except StateError as error:
        if str(error) != before:
            log.error("%s", error)
        return str(error)
    return ""
