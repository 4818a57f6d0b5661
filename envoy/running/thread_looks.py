"""Looks at the threads of a process, from outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from .silence import ThreadLook

_TICK = os.sysconf("SC_CLK_TCK")
_NANO = 1e-9
_STATE, _PROCESSOR = 0, 36  # fields of /proc/PID/stat behind the name, of which the state is the first
_STOLEN = 8  # of a line of /proc/stat


def look_at(pid: int, thread: int) -> ThreadLook | None:
    """One look; None when it is gone, or does not show itself."""
    folder = f"/proc/{pid}/task/{thread}"
    try:
        fields = Path(f"{folder}/stat").read_bytes().rpartition(b")")[2].split()
        ran, waited, _ = map(int, Path(f"{folder}/schedstat").read_bytes().split())
        calls = _values(Path(f"{folder}/io").read_bytes(), b"syscr:", b"syscw:")
        sleeps = _values(Path(f"{folder}/status").read_bytes(), b"voluntary_ctxt_switches:")
        return ThreadLook(
            fields[_STATE].decode(), sleeps, calls, ran * _NANO, waited * _NANO, _stolen(int(fields[_PROCESSOR]))
        )
    except (OSError, ValueError, IndexError):
        return None


def threads(pid: int, beginning: str) -> Iterator[tuple[int, str]]:
    """Those of a process whose names begin so, by number, with the rest of the name."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            name = (thread / "comm").read_text().strip()
            if name.startswith(beginning):
                yield int(thread.name), name.removeprefix(beginning)
    except OSError:
        return


def _values(text: bytes, *names: bytes) -> int:
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(names))


def _stolen(processor: int) -> float:
    """Seconds since boot that the hypervisor did not give to this CPU though it wanted to run."""
    wanted = b"cpu%d" % processor
    for line in Path("/proc/stat").read_bytes().splitlines():
        fields = line.split()
        if fields and fields[0] == wanted:
            return int(fields[_STOLEN]) / _TICK
    return 0.0
