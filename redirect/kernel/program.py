"""The programs in the kernel: from what is kept of the compiler's work, or by a child process that compiles them."""

from __future__ import annotations

import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import BpfUnsupportedError, ProgramRejectedError, RedirectError
from . import bpffs, syscall
from .compiler import NOT_KEPT, SOURCES, Exit
from .kept_programs import KeptPrograms
from .loader import Loader
from .program_hook import ProgramHook
from .source import read_source
from .syscall import LoadError

log = logging.getLogger("lockgate.redirect")

H = TypeVar("H", bound=ProgramHook)

_OLDEST = (6, 6)
_SECONDS = 60
_ERROR_LINE = re.compile(r"^(bpf/\S+:\d+:\d+: )?(fatal )?error: .*", re.MULTILINE)


class Loading(Generic[H]):
    """The programs of `hooks` on their way into the kernel: there already, by their pins, or from what is kept below
    `cache_dir`, or with the compiler.

    The first two folders lie in a BPF file system; nothing else may be in `program_folder`. Maps pinned in `map_folder`
    are used, missing ones are made there. Compiling takes some seconds, in a process of its own; the pins are named by
    what they were made from, so that an agent that starts again need not do anything, and one that starts after the
    machine need not compile. `source` says which, of those that have programs for these hooks; else it is the first.
    """

    def __init__(
        self, map_folder: Path, program_folder: Path, hooks: type[H], cache_dir: Path, source: str = ""
    ) -> None:
        self._source = source or next(name for name, kind in SOURCES.items() if kind is hooks)
        self._map_folder, self._program_folder = map_folder, program_folder
        self._cache_dir = cache_dir
        digest = _digest(self._source)
        self._pins: Mapping[H, Path] = {hook: program_folder / f"{hook.program}-{digest}" for hook in hooks}
        self._loader: Loader | None = None
        self._compiler: subprocess.Popen[str] | None = None
        if not all(path.exists() for path in self._pins.values()):
            kept = KeptPrograms(cache_dir, self._source).read()
            if kept is None:
                self._compile()
            else:
                bpffs.empty_folder(program_folder)
                self._loader = Loader(kept, map_folder, [*self._pins.items()])
                self._loader.start()

    def finish(self) -> Mapping[H, int]:
        """A descriptor for each program. Raises BpfUnsupportedError, ProgramRejectedError."""
        if self._loader is not None:
            self._loader.join()
            failure, self._loader = self._loader.failure, None
            if failure is not None:
                log.warning("the eBPF programs that were kept are compiled anew: %s", _reason(failure))
                self._compile()
        if self._compiler is not None:
            try:
                _, told = self._compiler.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired as error:
                self.give_up()
                raise ProgramRejectedError(
                    f"compiling the eBPF programs took more than {_SECONDS} s; is the node overloaded?"
                ) from error
            status, self._compiler = self._compiler.returncode, None
            if status != 0:
                raise explain(status, told)
            for line in told.splitlines():
                if line.startswith(NOT_KEPT):
                    log.warning("%s", line)
        return {hook: syscall.get(path) for hook, path in self._pins.items()}

    def give_up(self) -> None:
        """Ends the compiler. What is pinned stays."""
        if self._loader is not None:
            self._loader.join()
            self._loader = None
        if self._compiler is not None:
            self._compiler.kill()
            self._compiler.communicate()
            self._compiler = None

    def _compile(self) -> None:
        bpffs.empty_folder(self._program_folder)
        self._compiler = _compiler(self._source, self._map_folder, self._cache_dir, list(self._pins.values()))


def _reason(failure: Exception) -> str:
    """Why kept programs could not be loaded."""
    if isinstance(failure, LoadError):
        return str(explain(Exit.VERIFIER, failure.log))
    return str(failure.strerror if isinstance(failure, OSError) else repr(failure))


def _digest(source: str) -> str:
    made_from = [read_source(source), platform.release(), platform.machine()]
    return sha256("\0".join(made_from).encode()).hexdigest()[:16]


def _compiler(source: str, map_folder: Path, cache_dir: Path, pins: Sequence[Path]) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-P",
        "-m",
        "lockgate.redirect.kernel.compiler",
        source,
        str(map_folder),
        str(cache_dir),
        *map(str, pins),
    ]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def explain(status: int, log: str) -> RedirectError:
    """The error for a failed compiler process: one line, with the whole text as `log` where there is one."""
    release = platform.release()
    version = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    last = (log.strip().splitlines() or ["it said nothing"])[-1]
    if status == Exit.RIGHTS:
        return BpfUnsupportedError("loading eBPF programs needs root (CAP_BPF and CAP_NET_ADMIN); run as root")
    if status == Exit.NO_BCC:
        return BpfUnsupportedError(
            f"bcc for Python cannot be imported by {sys.executable} ({last}); install the package python3-bpfcc and "
            "use a virtual environment with system site packages"
        )
    if status == Exit.HEADERS:
        return BpfUnsupportedError(last)
    if status == Exit.COMPILE:
        found = _ERROR_LINE.search(log)
        return ProgramRejectedError(f"clang refused the eBPF programs: {found[0] if found else last}", log)
    if status == Exit.VERIFIER:
        if version < _OLDEST:
            return BpfUnsupportedError(f"the eBPF programs need Linux 6.6 or newer (TCX links); this is {release}")
        return ProgramRejectedError(f"the kernel's verifier refused the eBPF programs: {_verdict(log)}", log)
    return ProgramRejectedError(f"loading the eBPF programs failed (status {status}): {last}", log)


def _verdict(log: str) -> str:
    """The verifier's last word: the line before its statistics."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("processed ") and number:
            return lines[number - 1]
    return lines[-1] if lines else "it said nothing"
