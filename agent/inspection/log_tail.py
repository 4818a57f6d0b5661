"""Reading a log that grows and is rotated: its last lines, and those that come."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_BLOCK = 65536


class LogTail:
    """One log file. A rotated file is read to its end before the new one, so that no line is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._half = b""

    def last(self, lines: int) -> list[bytes]:
        """The last whole lines there are now; `more` goes on behind them."""
        self._file = self._open()
        if self._file is None:
            return []
        found: deque[bytes] = deque(maxlen=lines)
        found.extend(self._whole())
        return list(found)

    def more(self) -> list[bytes]:
        """The whole lines that have come since the last call."""
        if self._file is None:
            self._file = self._open()
            if self._file is None:
                return []
        lines = list(self._whole())
        if self._is_another():
            lines += self._whole()  # what came between the two looks
            self._file.close()
            self._file, self._half = self._open(), b""
            if self._file is not None:
                lines += self._whole()
        return lines

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> IO[bytes] | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _is_another(self) -> bool:
        assert self._file is not None
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False  # in the middle of being rotated
        ours = os.fstat(self._file.fileno())
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _whole(self) -> Iterator[bytes]:
        assert self._file is not None
        while block := self._file.read(_BLOCK):
            *lines, self._half = (self._half + block).split(b"\n")
            yield from lines
