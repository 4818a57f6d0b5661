"""Network namespaces: run a piece of code inside one without moving the rest of the process."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ..errors import NamespaceGoneError

T = TypeVar("T")

NETNS_DIR = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR)  # all else says nothing of the namespace
_libc = ctypes.CDLL(None, use_errno=True)


def named(name: str) -> Path:
    """The file of a named namespace (`ip netns add NAME`)."""
    return NETNS_DIR / name


def of_process(pid: int) -> Path:
    """The namespace file of a process."""
    return Path(f"/proc/{pid}/ns/net")


def cookie(path: Path) -> tuple[int, int]:
    """(device, inode) of a namespace file: equal for two files exactly when they are the same namespace.

    Raises NamespaceGoneError when it is not there, OSError when that cannot be told.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise _gone(path, error) from error
    return status.st_dev, status.st_ino


def run_in(path: Path, function: Callable[[], T]) -> T:
    """Run `function` inside the namespace at `path` and return what it returns.

    A thread of its own enters the namespace and ends with the call, so no other code of this process ever moves.
    Sockets that `function` opens stay in that namespace. Raises NamespaceGoneError when `path` is no namespace, OSError
    when that cannot be told.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def enter() -> None:
        try:
            _enter(path)
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=enter, name=f"in {path.name}", daemon=True)
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"no new thread for network namespace {path}") from error
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _enter(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _gone(path, error) from error
    try:
        if _libc.setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            if code == errno.EPERM:
                raise PermissionError(code, f"entering network namespace {path} needs root; run as root")
            if code != errno.EINVAL:
                raise OSError(code, os.strerror(code), str(path))
            raise NamespaceGoneError(
                f"{path} is not a network namespace ({os.strerror(code)}); check the workload's netns"
            )
    finally:
        os.close(fd)


def _gone(path: Path, error: OSError) -> Exception:
    if error.errno not in _GONE:
        return error
    return NamespaceGoneError(f"network namespace {path} is gone ({error.strerror}); start its workload again")
