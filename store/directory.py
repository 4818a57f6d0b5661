"""A directory (or a single file) of YAML as the store: the default."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from watchfiles import awatch

from .content import Document, StoreContent
from .errors import PathError

SUFFIXES = frozenset({".yaml", ".yml"})
TEST_SUFFIXES = (".test.yaml", ".test.yml")  # tests of policies: never taken for policies or workloads themselves
FILE_LIMIT = 16 * 1024 * 1024  # bytes; a larger file is refused unread (the parser's own limit is lower)

_SETTLE_MS = 30  # editors write in several steps: wait for this much quiet before reading
_RESCAN_SECONDS = 5.0  # file systems without inotify (some network mounts) are still noticed


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells an unchanged file without reading it."""

    inode: int
    size: int
    modified_ns: int


@dataclass(slots=True)
class _Tree:
    """One watched path and what was last read from it."""

    path: Path
    tests: bool = False  # of a folder: only the tests of policies, instead of everything else
    read: dict[str, tuple[_Stamp, Document]] = field(default_factory=dict)

    def require(self) -> None:
        """Raises PathError when there is nothing to read."""
        if not self.path.exists():
            raise PathError(f"{self.path}: no such file or directory; give a YAML file or a folder of them")

    def files(self) -> list[Path]:
        """YAML files in a stable order; hidden files and folders are left out (editors' and ConfigMaps' own).

        A file that is the path itself is taken whatever its name.
        """
        if not self.path.is_dir():
            return [self.path]
        found: list[Path] = []
        for folder, names, files in os.walk(self.path):
            names[:] = sorted(name for name in names if not name.startswith("."))
            found.extend(
                Path(folder, name)
                for name in sorted(files)
                if not name.startswith(".")
                and Path(name).suffix in SUFFIXES
                and name.endswith(TEST_SUFFIXES) == self.tests
            )
        return found

    def scan(self) -> tuple[Document, ...]:
        """Reads what changed.

        Raises:
            OSError: the path itself is gone or cannot be listed.
        """
        self.path.stat()
        if self.path.is_dir():
            os.scandir(self.path).close()  # os.walk is silent about a folder that it may not list
        now: dict[str, tuple[_Stamp, Document]] = {}
        for path in self.files():
            source = str(path)
            try:
                status = path.stat()
                stamp = _Stamp(status.st_ino, status.st_size, status.st_mtime_ns)
                known = self.read.get(source)
                if known is not None and known[0] == stamp and not known[1].failure:
                    now[source] = known
                    continue
                if status.st_size > FILE_LIMIT:
                    document = Document(
                        source, b"", f"{status.st_size} bytes is over the limit of {FILE_LIMIT}; split the file"
                    )
                else:
                    document = Document(source, path.read_bytes())
                if known is not None and known[1] == document:
                    document = known[1]
                now[source] = (stamp, document)
            except FileNotFoundError:
                continue  # deleted while we looked: that is a deletion
            except OSError as error:
                now[source] = (_Stamp(0, 0, 0), Document(source, b"", f"cannot be read: {error.strerror}"))
        self.read = now
        return tuple(document for _, document in now.values())


def read_documents(path: Path) -> tuple[Document, ...]:
    """The YAML documents of one file or folder, once.

    Raises:
        PathError: there is no such path.
    """
    tree = _Tree(path)
    tree.require()
    return tree.scan()


def read_policy_tests(path: Path) -> tuple[Document, ...]:
    """One file, or the files of a folder that are named as tests of policies, once.

    Raises:
        PathError: there is no such path.
    """
    tree = _Tree(path, tests=True)
    tree.require()
    return tree.scan()


class DirectoryStore:
    """Policies and workloads from two paths, each a file or a folder (read recursively)."""

    def __init__(self, policies: Path, workloads: Path) -> None:
        self._policies = _Tree(policies.absolute())
        self._workloads = _Tree(workloads.absolute())
        self._content = StoreContent((), ())

    async def read(self) -> StoreContent:
        """Reads both paths.

        Raises:
            PathError: one of them does not exist.
        """
        self._policies.require()
        self._workloads.require()
        self._content = await asyncio.to_thread(self._scan)
        return self._content

    async def changes(self) -> AsyncIterator[StoreContent]:
        """Content after each change on disk."""
        # A single file is watched through its folder: editors replace files by renaming over them.
        folders = {tree.path if tree.path.is_dir() else tree.path.parent for tree in (self._policies, self._workloads)}
        watcher = awatch(
            *sorted(folders),
            debounce=_SETTLE_MS * 4,
            step=_SETTLE_MS,
            rust_timeout=int(_RESCAN_SECONDS * 1000),
            yield_on_timeout=True,
            watch_filter=None,
            ignore_permission_denied=True,
        )
        async for _ in watcher:
            content = await asyncio.to_thread(self._scan)
            if content != self._content:
                self._content = content
                yield content

    def _scan(self) -> StoreContent:
        problems: list[str] = []

        def documents(tree: _Tree, last: tuple[Document, ...]) -> tuple[Document, ...]:
            try:
                return tree.scan()
            except OSError as error:
                # An unmounted folder must not read as "all policies were deleted".
                problems.append(f"{tree.path}: {error.strerror}; what was read before stays in force")
                return last

        policies = documents(self._policies, self._content.policies)
        workloads = documents(self._workloads, self._content.workloads)
        return StoreContent(policies, workloads, tuple(problems))
