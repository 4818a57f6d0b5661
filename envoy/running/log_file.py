"""Envoy's log in the run dir, which does not grow without end."""

from __future__ import annotations

import os
from pathlib import Path


class LogFile:
    """Appends to `path`; at `limit` bytes the file becomes `path`.1 and a new one begins."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def _open(self) -> None:
        self.descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self.descriptor).st_size

    def write(self, data: bytes) -> None:
        """Append `data`. A disk that is full or broken loses the lines, but not the supervisor."""
        try:
            if self._size and self._size + len(data) > self._limit:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
                before = self.descriptor
                self._open()
                os.close(before)
            self._size += os.write(self.descriptor, data)
        except OSError:
            return
