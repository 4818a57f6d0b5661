"""Links that attach a program and live as long as their pins."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from . import syscall
from .syscall import Command

_BEFORE = 8  # BPF_F_BEFORE: of all, where no other program is named


def create(program_fd: int, target: int, attach_type: int, *, first: bool = False) -> int:
    """A descriptor of a new link; `target` is an interface or the descriptor of a cgroup. `first`: the kernel is to run
    it before those that are there. Raises OSError."""
    flags = _BEFORE if first else 0
    return syscall.bpf(Command.LINK_CREATE, struct.pack("=IIIIIIQ", program_fd, target, attach_type, flags, 0, 0, 0))


def keep(fd: int, path: Path) -> None:
    """Pin the link, and let go of the descriptor whether or not that worked."""
    try:
        syscall.pin(fd, path)
    finally:
        os.close(fd)


def swap(fd: int, program_fd: int) -> None:
    """Put another program behind the link, atomically. Raises OSError."""
    syscall.bpf(Command.LINK_UPDATE, struct.pack("=IIII", fd, program_fd, 0, 0))


def remove(path: Path) -> None:
    """Take the program off, and the pin with it. A link that is not there is fine.

    Without the pin alone the kernel takes the program off a little later, and until then refuses it a second time.
    """
    try:
        detach(path)
    except FileNotFoundError:
        return
    path.unlink(missing_ok=True)


def detach(path: Path) -> None:
    """Take the program off, and leave the pin of a link that is of no use. Raises OSError."""
    fd = syscall.get(path)
    try:
        syscall.bpf(Command.LINK_DETACH, struct.pack("=I", fd))
    except OSError as error:
        if error.errno != errno.ENOLINK:  # the interface or the cgroup is gone
            raise
    finally:
        os.close(fd)


def remove_all(folder: Path) -> None:
    """`remove` for every link of a folder, which may not be there."""
    for path in folder.iterdir() if folder.is_dir() else ():
        remove(path)
