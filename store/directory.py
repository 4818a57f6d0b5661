"""A directory (or a single file) of YAML as the store: the default."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .content import Document, StoreContent
from .errors import PathError
from .watch import FolderWatch
from .whole import keep_writers_away

SUFFIXES = frozenset({".yaml", ".yml"})
TEST_SUFFIXES = (".test.yaml", ".test.yml")  # tests of policies: never taken for policies or workloads themselves
FILE_LIMIT = 16 * 1024 * 1024  # bytes; a larger file is refused unread (the parser's own limit is lower)

_BEING_WRITTEN = "it is being written; it counts when its writer has closed it"
_RESCAN_SECONDS = 5.0  # file systems without inotify (some network mounts) are still noticed
_RESCAN_SHARE = 0.01  # of the time, at most, goes into looking at everything


@dataclass(frozen=True, slots=True)
class _Stamp:
    """What tells an unchanged file without reading it."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int  # whoever writes can set the time before, and not this one


_UNSEEN = _Stamp(0, 0, 0, 0)  # of a file that has to be looked at again


@dataclass(slots=True)
class _Tree:
    """One watched path and what was last read from it, by source."""

    path: Path
    tests: bool = False  # of a folder: only the tests of policies, instead of everything else
    read: dict[str, tuple[_Stamp, Document]] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)  # that were found in the last scan, or hold the file

    def require(self) -> None:
        """Raises PathError when there is nothing to read."""
        if not self.path.exists():
            raise PathError(f"{self.path}: no such file or directory; give a YAML file or a folder of them")

    def scan(self) -> tuple[Document, ...]:
        """Looks at every file and reads what changed. The documents are sorted by source.

        Raises:
            OSError: the path itself or a folder below it is gone or cannot be listed.
        """
        now: dict[str, tuple[_Stamp, Document]] = {}
        gone = False
        for source, found in sorted(self._files()):
            if (document := self._look(source, found)) is not None:
                now[source] = document
            else:
                gone = True
        if gone:
            self._require_folder()
        self.read = now
        return self._documents()

    def rescan(self, changed: Iterable[str]) -> tuple[Document, ...]:
        """Looks at these paths, which something happened to, and takes the rest for unchanged; at everything when
        more than single files may be meant.

        Raises:
            OSError: as `scan`.
        """
        root = f"{self.path}/"
        sources = set()
        for path in changed:
            if not path.startswith(root):
                if path != str(self.path):
                    continue
                return self.scan()
            parts = path.removeprefix(root).split("/")
            if any(part.startswith("..") for part in parts):  # a ConfigMap's files all change by one link
                return self.scan()
            if not any(part.startswith(".") for part in parts):
                sources.add(path)
        if any(not path.endswith(tuple(SUFFIXES)) or Path(path).is_dir() for path in sources):
            return self.scan()
        own = (source for source in sources if source.endswith(TEST_SUFFIXES) == self.tests)
        looked = {source: self._look(source, partial(os.stat, source)) for source in own}
        if None in looked.values():
            self._require_folder()
        before = len(self.read)
        for source, document in looked.items():
            if document is not None:
                self.read[source] = document
            else:
                self.read.pop(source, None)
        if len(self.read) != before:
            self.read = dict(sorted(self.read.items()))
        return self._documents()

    def _require_folder(self) -> None:
        """Files that are gone were deleted only if the path itself is still there: its last content stays in force.

        Raises:
            OSError: it is not.
        """
        self.path.stat()

    def _documents(self) -> tuple[Document, ...]:
        return tuple(document for _, document in self.read.values())

    def _files(self) -> Iterator[tuple[str, Callable[[], os.stat_result]]]:
        """YAML files, each with what tells its state, also behind links to folders, each folder once; hidden files
        and folders are left out (editors' and ConfigMaps' own). A file that is the path itself is taken whatever its
        name."""
        if not self.path.is_dir():
            self.path.stat()
            # Editors replace files by renaming over them.
            self.folders = {str(self.path.parent)}
            yield str(self.path), self.path.stat
            return
        folders = [str(self.path)]
        found: set[str] = set()
        seen: set[tuple[int, int]] = set()  # a link may lead back
        while folders:
            folder = folders.pop()
            try:
                status = os.stat(folder)  # noqa: PTH116  as in _read
                if (place := (status.st_dev, status.st_ino)) in seen:
                    continue
                seen.add(place)
                found.add(folder)
                entries = list(os.scandir(folder))
            except FileNotFoundError:
                if not self.path.exists():
                    raise
                continue  # deleted while we looked: that is a deletion
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.path in self.folders and entry.is_symlink():
                    entry.stat()  # a folder until now: what it leads to may not be mounted
                elif name.endswith(tuple(SUFFIXES)) and name.endswith(TEST_SUFFIXES) == self.tests:
                    yield entry.path, entry.stat
        self.folders = found

    def _look(self, source: str, state: Callable[[], os.stat_result]) -> tuple[_Stamp, Document] | None:
        """One file, read if it changed; None when it is gone."""
        try:
            status = state()
            stamp = _Stamp(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            known = self.read.get(source)
            if known is not None and known[0] == stamp and not known[1].failure:
                return known
            if status.st_size > FILE_LIMIT:
                failure = f"{status.st_size} bytes is over the limit of {FILE_LIMIT}; split the file"
                document = Document(source, b"", failure)
            elif stat.S_ISREG(status.st_mode):
                data = _read(source)
                document = Document(source, b"", _BEING_WRITTEN) if data is None else Document(source, data)
            elif source == str(self.path):  # a pipe to the command, as in `policy validate /dev/stdin`
                document = _read_stream(source)
            else:
                document = Document(source, b"", "no plain file; nothing else is read in a folder")
            if known is not None and known[1] == document:
                document = known[1]
            return stamp, document
        except FileNotFoundError:
            if os.path.islink(source):  # noqa: PTH114  its target may be on a file system that is not mounted
                return _UNSEEN, Document(source, b"", "a link to nothing")
            return None  # deleted while we looked: that is a deletion
        except OSError as error:
            return _UNSEEN, Document(source, b"", f"cannot be read: {error.strerror}")


def _read(source: str) -> bytes | None:
    """None while somebody writes it."""
    with open(source, "rb", buffering=0) as file:  # noqa: PTH123  of ten thousand, a Path and a buffer double the time
        return file.readall() if keep_writers_away(file.fileno()) else None


def _read_stream(source: str) -> Document:
    """To its end, or to the limit."""
    with open(source, "rb") as file:  # noqa: PTH123  as above
        data = file.read(FILE_LIMIT + 1)
    if len(data) > FILE_LIMIT:
        return Document(source, b"", f"more than the limit of {FILE_LIMIT} bytes; split it")
    return Document(source, data)


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
        with FolderWatch() as watch:
            watch.follow(self._policies.folders | self._workloads.folders)  # as they were read
            changed: Collection[str] | None = None
            while True:
                began = time.monotonic()
                content = await asyncio.to_thread(self._scan, changed)
                while changed is None and watch.follow(self._policies.folders | self._workloads.folders):
                    content = await asyncio.to_thread(self._scan)  # what was written before they were watched
                if changed is None:
                    # News of changes may get lost in a flood of them, so now and then everything is looked at.
                    now = time.monotonic()
                    until = now + max(_RESCAN_SECONDS, (now - began) / _RESCAN_SHARE)
                if content != self._content:
                    self._content = content
                    yield content
                look = await watch.next(until)
                changed = None if look.everything else look.files

    def _scan(self, changed: Collection[str] | None = None) -> StoreContent:
        """Everything, or the paths that changed."""
        problems: list[str] = []

        def documents(tree: _Tree, last: tuple[Document, ...]) -> tuple[Document, ...]:
            try:
                return tree.scan() if changed is None else tree.rescan(changed)
            except OSError as error:
                # An unmounted folder must not read as "all policies were deleted".
                problems.append(f"{tree.path}: {error.strerror}; what was read before stays in force")
                return last

        policies = documents(self._policies, self._content.policies)
        workloads = documents(self._workloads, self._content.workloads)
        return StoreContent(policies, workloads, tuple(problems))
