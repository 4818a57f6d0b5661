"""Run when Lockgate is installed: compiles what the first agent would have to, and leaves nothing in the kernel.

    python -m lockgate.redirect.kernel.precompile [CACHE_DIR]

Needs the rights of an agent. Exit status: 0, also when all was kept already; 1 with a sentence on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from ..errors import RedirectError
from . import bpffs
from .compiler import SOURCES
from .kept_programs import DEFAULT_CACHE_DIR, KeptPrograms
from .program import Loading

_PINS = Path("/sys/fs/bpf")
_NAME = "lockgate-precompile-"  # and our pid


def precompile(cache_dir: Path) -> None:
    """Raises RedirectError, OSError."""
    lacking = [source for source in SOURCES if KeptPrograms(cache_dir, source).read() is None]
    if not lacking:
        return
    for left in _PINS.glob(f"{_NAME}*"):  # by one that was killed
        if not Path("/proc", left.name.removeprefix(_NAME)).exists():
            bpffs.remove_folder(left)
    folder = _PINS / f"{_NAME}{os.getpid()}"
    try:
        for source in lacking:
            _compile(source, folder, cache_dir)
    finally:
        bpffs.remove_folder(folder)


def _compile(source: str, folder: Path, cache_dir: Path) -> None:
    maps, programs = folder / "maps", folder / Path(source).stem
    for each in (maps, programs):
        bpffs.ensure_folder(each)
    for fd in Loading(maps, programs, SOURCES[source], cache_dir, source).finish().values():
        os.close(fd)


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    try:
        precompile(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_CACHE_DIR)
    except (RedirectError, OSError) as error:
        sys.exit(f"the eBPF programs could not be compiled ahead: {error}")
