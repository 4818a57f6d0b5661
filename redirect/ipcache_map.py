"""The ipcache, whose every change shows in its generation: a number in memory that others can read without a call.

Who keeps what it looked up (envoy/module/ipcache.rs) keeps it for one generation, and nothing that it looked up while
the generation was odd or changed. So it never goes by an entry that the map does not hold any more.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..policies.identity import IPNetwork
from . import layout
from .kernel import syscall
from .kernel.maps import PinnedMap, open_map
from .plan import Owner


class Generation:
    """The number in the pinned map of one entry. Close it when done.

    It is even while the ipcache is at rest. A writer that dies in the middle leaves it odd, and nobody keeps anything
    until the next one has written.
    """

    def __init__(self, folder: Path) -> None:
        fd = open_map(folder, layout.GENERATION_NAME)
        try:
            self.id = syscall.map_info(fd).id
            self._memory = mmap.mmap(fd, mmap.PAGESIZE)
        finally:
            os.close(fd)
        # An aligned word is written at once: nobody reads half of a number.
        self._word: ctypes.c_uint64 | None = ctypes.c_uint64.from_buffer(self._memory)

    @property
    def value(self) -> int:
        """As it is now."""
        assert self._word is not None
        return self._word.value

    @contextmanager
    def change(self) -> Iterator[None]:
        """The ipcache may change in the block."""
        assert self._word is not None
        self._word.value |= 1
        try:
            yield
        finally:
            self._word.value += 1

    def close(self) -> None:
        """Let go of the memory."""
        self._word = None
        self._memory.close()


class IpcacheMap(PinnedMap[IPNetwork, Owner]):
    """The map of owners by prefix."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, layout.IPCACHE)
        self.generation = Generation(folder)

    def put(self, entries: Mapping[IPNetwork, Owner]) -> None:
        """As of every map."""
        if entries:
            with self.generation.change():
                super().put(entries)

    def remove(self, keys: Iterable[IPNetwork]) -> None:
        """As of every map."""
        gone = list(keys)
        if gone:
            with self.generation.change():
                super().remove(gone)

    def close(self) -> None:
        """Forget the descriptor and the memory."""
        self.generation.close()
        super().close()
