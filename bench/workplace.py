"""Where a bench works: a folder of the run's own, a compiled origin server, and nothing left at the end."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from lockgate.agent.playground import Playground
from lockgate.agent.settings import Settings
from lockgate.redirect.kernel import netns

from .errors import StartError

RESULTS = Path(__file__).parent / "results"

_RUN = Path("/run")
_DIRECTORY = "lockgate-bench-"  # and our pid


@contextmanager
def workplace() -> Iterator[Path]:
    """A new folder with a short path, for Unix sockets. What killed runs left is removed first."""
    sweep()
    directory = _RUN / f"{_DIRECTORY}{os.getpid()}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        _clean(directory)


def prefix() -> str:
    """What the names of this run's playgrounds begin with."""
    return f"bench{os.getpid()}"


def sweep() -> None:
    """Remove what runs left that were killed and could not clean up: namespaces, directories, pinned maps."""
    for path in netns.NETNS_DIR.glob("lg-bench*_*"):
        found = re.fullmatch(r"lg-(bench(\d+)_[a-z0-9]+)", path.name)
        if found and not Path("/proc", found[2]).exists():
            Playground.sweep(found[1])
    for directory in _RUN.glob(f"{_DIRECTORY}*"):
        if not Path("/proc", directory.name.removeprefix(_DIRECTORY)).exists():
            _clean(directory)


def compiled_origin(directory: Path) -> Path:
    """bench/origin.c, compiled into `directory`. Raises StartError."""
    return compiled("origin.c", directory)


def compiled(name: str, directory: Path) -> Path:
    """A C program of the bench, compiled into `directory`. Raises StartError."""
    source = Path(__file__).with_name(name)
    binary = directory / source.stem
    command = ["gcc", "-O2", "-Wall", "-pthread", "-o", str(binary), str(source)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise StartError(f"gcc did not compile {source}: {made.stderr.strip()}")
    return binary


def interruptible() -> None:
    """From now on the signals that end a run raise KeyboardInterrupt, so that everything is cleaned up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave half of a cleaning undone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, _interrupt)


def positive(text: str) -> int:
    """An option's value: a whole number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def positives(text: str) -> tuple[int, ...]:
    """Several of them, with commas between, smallest first."""
    return tuple(sorted({positive(part) for part in text.split(",")}))


def _clean(directory: Path) -> None:
    for run_dir in directory.glob("*/run"):
        shutil.rmtree(Settings(run_dir, run_dir, run_dir=run_dir).pin_dir, ignore_errors=True)
    shutil.rmtree(directory, ignore_errors=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
