"""What a machine can run out of, brought about for one process or one folder."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from lockgate.redirect.kernel import syscall
from lockgate.redirect.layout import Codec

_LPM_TRIE = 11  # enum bpf_map_type
_NO_PREALLOC = 1


@contextmanager
def descriptors(pid: int, more: int) -> Iterator[None]:
    """The process may open so many more than it has: the limit is of their numbers, the lowest free ones are taken."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    limit = next(each for each in count() if sum(number not in taken for number in range(each)) == more)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@contextmanager
def disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """The folder is a file system of its own of that size."""
    folder.mkdir(mode=0o700, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=700,size={kilobytes}k", "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """There is no room left in that file system."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can write there. Who has a file open goes on."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def pin_small(folder: Path, codec: Codec[Any, Any], entries: int) -> None:
    """The data path's map of that name, for prefixes, before there is another: it is taken as it is."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = syscall.create_map(_LPM_TRIE, codec.key_size, codec.value_size, entries, _NO_PREALLOC, codec.name)
    syscall.pin(fd, folder / codec.name)
    os.close(fd)


@contextmanager
def processes(pid: int, more: int) -> Iterator[None]:
    """The process, whose descendants come along, may have so many more."""
    folder = next(each for each in (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup")) if each.is_dir())
    group = folder / f"lockgate-scarcity-{pid}"
    group.mkdir()
    home = _group_of(folder, pid)
    try:
        (group / "cgroup.procs").write_text(str(pid))
        (group / "pids.max").write_text(str(int((group / "pids.current").read_text()) + more))
        yield
    finally:
        for each in (group / "cgroup.procs").read_text().split():
            (home / "cgroup.procs").write_text(each)
        group.rmdir()


def _group_of(folder: Path, pid: int) -> Path:
    """The process's control group in that hierarchy."""
    name = "pids" if folder.name == "pids" else ""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return folder / next(path for _, kinds, path in lines if name in kinds.split(",")).lstrip("/")
