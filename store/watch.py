"""News of the files in some folders, from the kernel's inotify (https://man7.org/linux/man-pages/man7/inotify.7.html)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

from asyncinotify import Event, Inotify, Mask, Watch

from .pending import Look, Pending

log = logging.getLogger("lockgate.store")

_WHOLE = Mask.CLOSE_WRITE | Mask.MOVED_TO
_MASK = _WHOLE | Mask.MOVED_FROM | Mask.CREATE | Mask.DELETE | Mask.ATTRIB | Mask.DELETE_SELF | Mask.MOVE_SELF
_FOLDERS = Mask.ISDIR | Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT | Mask.Q_OVERFLOW


class FolderWatch:
    """An asynchronous context manager of the running event loop. Says what to look at; never reads anything itself."""

    def __init__(self) -> None:
        self._pending = Pending()
        self._told = asyncio.Event()
        self._inotify: Inotify | None = None
        self._watches: dict[str, Watch] = {}

    def __enter__(self) -> FolderWatch:
        try:
            self._inotify = Inotify(sync_timeout=0)
        except OSError as error:  # too many instances of one user
            log.warning("changes of files are noticed seconds later, there is no inotify: %s", error.strerror)
        else:
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()

    def follow(self, folders: Collection[str]) -> bool:
        """Watch these, and no others. True when one of them was not watched before: what happened in it up to now has
        to be looked for. A folder that is gone meanwhile, or cannot be watched, is left out."""
        if self._inotify is None:
            return False
        watches = {}
        for folder in folders:
            try:
                watches[folder] = self._inotify.add_watch(folder, _MASK | Mask.ONLYDIR)
            except OSError as error:
                log.debug("%s is not watched: %s", folder, error.strerror)
            else:
                watches[folder].path = Path(folder)  # the same folder may have had another name before
        for watch in {*self._watches.values()} - {*watches.values()}:
            if watch in self._inotify.watches:
                self._inotify.rm_watch(watch)
        added = any(self._watches.get(folder) is not watch for folder, watch in watches.items())
        self._watches = watches
        return added

    async def next(self, until: float) -> Look:
        """What to look at next; everything at the latest when `until` has come (monotonic)."""
        while (now := time.monotonic()) < until:
            if (look := self._pending.take(now)) is not None:
                return look
            self._told.clear()
            due = self._pending.due
            try:
                async with asyncio.timeout((until if due is None else min(due, until)) - now):
                    await self._told.wait()
            except TimeoutError:
                pass
        return Look(everything=True)

    def _read(self) -> None:
        assert self._inotify is not None
        now = time.monotonic()
        for event in self._inotify:
            self._pending.tell(_file_of(event), now, whole=bool(event.mask & _WHOLE))
        self._told.set()


def _file_of(event: Event) -> str | None:
    """None where more than one file may be meant."""
    if event.mask & _FOLDERS or event.name is None or event.path is None:
        return None
    return str(event.path)
