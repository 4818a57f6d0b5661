"""The file system in which a launch's paths are: that of the agent's container, which may be another than the
supervisor's, when an agent of another image has Envoy replaced by its own."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_OWN = Path("/proc/self/ns/mnt")

_libc = ctypes.CDLL(None, use_errno=True)


class FileSystem:
    """Kept for as long as this is, whatever becomes of the process that it was found by."""

    def __init__(self, pid: int) -> None:
        """Of process `pid`; 0 is this one. Raises OSError when there is no such process."""
        self._descriptor: int | None = None
        if pid:
            descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_ino == _OWN.stat().st_ino:
                os.close(descriptor)
            else:
                self._descriptor = descriptor

    def enter(self) -> None:
        """In a child that is about to become another program: go there. Raises OSError."""
        if self._descriptor is not None and _libc.setns(self._descriptor, _CLONE_NEWNS) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"entering the agent's file system: {os.strerror(code)}; it takes CAP_SYS_CHROOT")

    def __del__(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
