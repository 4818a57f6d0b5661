"""One agent for a network namespace and one for a run directory, also when the other one died by kill -9."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..errors import AlreadyRunningError, HostError

_TRIES = 100


class AgentLock:
    """Held from `with` to its end. Both locks are the kernel's and vanish with the process.

    The file stays, also after a start that fails: whoever took it away could take it from an agent that has opened it
    and is about to lock it, and the next one would lock another. Nobody asks whether it is there; its content is the
    number of the process that had it last, for people.

    The abstract Unix socket exists once in a network namespace: two agents there would fight over tc hooks and Envoy's
    ports even when their directories differ.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "agent.lock"
        self._file = -1
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> AgentLock:
        if not any(self._take() for _ in range(_TRIES)):
            raise HostError(
                f"--run-dir {self._path.parent}: {self._path.name} goes as soon as it is made; start it again"
            )
        try:
            self._socket.bind("\0lockgate-agent")
        except OSError:
            self._close()
            raise AlreadyRunningError(
                "another agent already runs in this network namespace with a different --run-dir; stop it first"
            ) from None
        with suppress(OSError):  # a full disk; it is for people
            os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)
            os.truncate(self._file, len(f"{os.getpid()}\n"))
        return self

    def _take(self) -> bool:
        """False when `clean` has just taken the file away, or the folder with it: what was locked is nobody's."""
        folder = self._path.parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise HostError(f"--run-dir {folder}: {error.strerror}; give a folder that root can write") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            self._close()
            raise AlreadyRunningError(
                f"another agent (pid {owner}) already uses {folder}; stop it first, or give this one its own --run-dir"
            ) from None
        if os.fstat(self._file).st_nlink:
            return True
        os.close(self._file)
        self._file = -1
        return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._socket.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
