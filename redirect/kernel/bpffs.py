"""The BPF file system, where maps and links outlive the agent."""

from __future__ import annotations

import ctypes
import fcntl
import os
from pathlib import Path

from ..errors import BpfUnsupportedError, PinConflictError
from . import syscall

_MAGIC = 0xCAFE4A11
_MOUNT_POINT = Path("/sys/fs/bpf")
_libc = ctypes.CDLL(None, use_errno=True)


def ensure_folder(folder: Path) -> None:
    """Make `folder` in a BPF file system, mounting the usual one when it is not there."""
    if not is_bpffs(folder) and folder.is_relative_to(_MOUNT_POINT):
        _mount()
    if not is_bpffs(folder):
        raise BpfUnsupportedError(
            f"{folder} is not in a BPF file system; choose a pin folder below {_MOUNT_POINT}, or mount one with "
            f"'mount -t bpf bpf DIR'"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        raise BpfUnsupportedError(f"cannot make {folder} ({error.strerror}); run as root") from error


def is_bpffs(path: Path) -> bool:
    """True when `path` (or the nearest folder above it that exists) lies in a BPF file system."""
    while not path.exists():
        path = path.parent
    buffer = ctypes.create_string_buffer(256)  # struct statfs starts with a long f_type
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return ctypes.c_long.from_buffer(buffer).value == _MAGIC


def lock(folder: Path) -> int:
    """Claim `folder` for this process until the descriptor is closed. Raises PinConflictError when another has it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise PinConflictError(
            f"another agent uses the pin folder {folder}; stop it, or give this one another run directory"
        ) from error
    return fd


def is_where_it_was(folder: Path, lock: int) -> bool:
    """False when another file system, or none, is seen where `lock` was taken."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def carry_over(claimed: int, folder: Path) -> int:
    """Pin everything that is below the folder of the lock `claimed` at `folder` as well, which is claimed for that. Its
    file system may be mounted nowhere any more, and ends with the lock.

    Returns the new lock. Raises BpfUnsupportedError, PinConflictError, OSError.
    """
    ensure_folder(folder)
    fd = lock(folder)
    try:
        held = Path(f"/proc/self/fd/{claimed}")
        for place, folders, names in os.walk(held):
            new = folder / Path(place).relative_to(held)
            for name in folders:
                (new / name).mkdir(mode=0o700, exist_ok=True)
            for name in names:
                _pin_again(Path(place, name), new / name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _pin_again(path: Path, new: Path) -> None:
    new.unlink(missing_ok=True)
    fd = syscall.get(path)
    try:
        syscall.pin(fd, new)
    finally:
        os.close(fd)


def empty_folder(folder: Path) -> None:
    """Unpin everything in `folder` and below."""
    for path in folder.iterdir():
        if path.is_dir():
            remove_folder(path)
        else:
            path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Unpin everything in `folder` and below, and remove it. A folder that is not there is fine."""
    if folder.is_dir():
        empty_folder(folder)
        folder.rmdir()


def _mount() -> None:
    if not _MOUNT_POINT.is_dir():
        raise BpfUnsupportedError(f"{_MOUNT_POINT} does not exist: this kernel has no eBPF, or /sys is not mounted")
    if _libc.mount(b"bpf", os.fsencode(_MOUNT_POINT), b"bpf", 0, None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise BpfUnsupportedError(f"cannot mount the BPF file system on {_MOUNT_POINT} ({reason}); run as root")
