"""The compiler's work, kept in a folder of the machine: clang is needed once for each source, not at each start.

    CACHE_DIR/programs/NAME-KEY      what bpf/NAME.c became; KEY is of all that decides what the compiler makes of it

A file goes into the kernel as it is, so only what nobody but root can have written is believed, and only whole. Files
of other versions of Lockgate stay for a while: the agents of a machine need not be of one version.
"""

from __future__ import annotations

import logging
import os
import platform
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from .compiled import Compiled, Maker
from .source import read_source

log = logging.getLogger("lockgate.redirect")

DEFAULT_CACHE_DIR = Path("/var/cache/lockgate")
_FOLDER = "programs"
_MOST = 8  # files of one source: those that were used last
_SECONDS = 3600  # after which an unfinished file is nobody's any more
_ROOM = 16 << 20  # bytes; what is larger is not ours
_PACKAGE = "lockgate.redirect.kernel"
# Decide beside the source.
_OURS = (
    "cgroup.py",
    "compiled.py",
    "compiler.py",
    "kernel_headers.py",
    "newcomer_hook.py",
    "program_hook.py",
    "tcx.py",
)
_HEADERS = Path("/usr/include/linux/version.h")  # is another with each version of linux-libc-dev
_LIBRARIES = ("libbcc.", "libclang", "libLLVM", "libbpf.")
_ROOT = 0


class KeptPrograms:
    """What is kept of one source."""

    def __init__(self, cache_dir: Path, source: str) -> None:
        self._folder = cache_dir / _FOLDER
        self._stem = f"{Path(source).stem}-"
        self.path = self._folder / f"{self._stem}{_key(source)}"

    def read(self) -> Compiled | None:
        """None where nothing is kept, or nothing that can be believed (which is logged)."""
        try:
            kept = Compiled.from_bytes(self._read())
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("%s cannot be used (%s): the eBPF programs are compiled", self.path, error.strerror)
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s is not used, as %s: the eBPF programs are compiled", self.path, error)
            return None
        if not kept.made_by or any(_maker(Path(each.path)) != each for each in kept.made_by):
            log.info("another compiler than today's made %s: the eBPF programs are compiled", self.path)
            return None
        with suppress(OSError):
            os.utime(self.path)  # it was used
        return kept

    def write(self, compiled: Compiled) -> None:
        """Takes its place in one step; what falls out of use goes. Raises OSError, and then nothing has changed.

        What a loss of power leaves of it is found damaged, so nobody waits for the disk.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._folder / f".{self.path.name}.{os.getpid()}"
        try:
            new.unlink(missing_ok=True)
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(compiled.to_bytes())
            new.replace(self.path)
        except OSError:
            with suppress(OSError):
                new.unlink()
            raise
        with suppress(OSError):
            self._sweep()

    def _read(self) -> bytes:
        """Raises OSError, and ValueError when others than root may have written it."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _require_root(os.fstat(folder), "its folder")
            found = os.open(self.path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            status = os.fstat(found)
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("it is no file")
            _require_root(status, "it")
            return os.read(found, min(status.st_size, _ROOM))
        finally:
            os.close(found)

    def _sweep(self) -> None:
        now = time.time()
        for path in self._folder.glob(".*"):
            if now - path.stat().st_mtime > _SECONDS:
                path.unlink(missing_ok=True)
        used = sorted(self._folder.glob(f"{self._stem}*"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in used[_MOST:]:
            path.unlink(missing_ok=True)


def makers() -> tuple[Maker, ...]:
    """Of what the compiler in this process is made: the libraries that are loaded, and the headers that it has."""
    with Path("/proc/self/maps").open() as maps:
        paths = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    libraries = sorted(path for path in map(Path, paths) if path.name.startswith(_LIBRARIES))
    return tuple(made for made in map(_maker, [*libraries, _HEADERS]) if made is not None)


def _maker(path: Path) -> Maker | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Maker(str(path), found.st_size, found.st_mtime_ns)


def _key(source: str) -> str:
    """The kernel's release counts although the programs hold nothing of it but what is in the source: another one's
    verifier may be stricter, and a file that it has taken once it will take again."""
    ours = (files(_PACKAGE).joinpath(name).read_bytes() for name in _OURS)
    made_from: Iterable[bytes] = [
        read_source(source).encode(),
        *ours,
        platform.release().encode(),
        platform.machine().encode(),
    ]
    return sha256(b"\0".join(made_from)).hexdigest()[:16]


def _require_root(found: os.stat_result, what: str) -> None:
    if found.st_uid != _ROOT:
        raise ValueError(f"{what} belongs to user {found.st_uid} and not to root")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"{what} may be written by others than root (mode {stat.S_IMODE(found.st_mode):o})")
