"""How much CPU the machine spent, and for whom.

The whole is what the kernel did not call idle, iowait or steal in /proc/stat. It counts by these and not by the busy
columns: idle time is measured by clock readings on entry and exit, the busy columns are sampled at timer ticks. It
holds softirqs that ran on an idle core, which belong to no process.
"""

from __future__ import annotations

import os
import resource
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lockgate.redirect.errors import NamespaceGoneError
from lockgate.redirect.kernel import netns

_TICKS = os.sysconf("SC_CLK_TCK")
_PF_KTHREAD = 0x00200000


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of one stretch of time.

    `path` is what the machine spent, less what processes outside of the measured path used (`foreign`). `processes` are
    the parts of `path` by process name; the rest are interrupts that hit an idle core, and kernel threads.
    """

    path: float
    foreign: float
    processes: Mapping[str, float] = field(default_factory=dict)

    @property
    def rest(self) -> float:
        """CPU seconds of the path that no process of it was charged for."""
        return max(0.0, self.path - sum(self.processes.values()))


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment: user and system seconds of all its threads, and of the children it has reaped."""

    name: str
    on_path: bool
    seconds: float
    reaped: float = 0.0


class Stopwatch:
    """Measures between `start` and `stop`. `namespaces` are those whose processes are the path.

    A child that this process starts in between and waits for is on the path too, under the name `load`.
    """

    def __init__(self, namespaces: list[Path]) -> None:
        self._namespaces = {netns.cookie(path) for path in namespaces}
        self._cores = os.sysconf("SC_NPROCESSORS_ONLN")

    def start(self) -> None:
        """From here."""
        self._before = _processes(self._namespaces)
        self._own, self._children = _own_seconds()
        self._unused, self._at = _unused(), time.monotonic()

    def stop(self) -> Usage:
        """To here."""
        wall, unused = time.monotonic() - self._at, _unused() - self._unused
        own, children = _own_seconds()
        after = _processes(self._namespaces)
        charged = split(self._before, after)
        foreign = charged.pop("") + own - self._own
        charged["load"] += children - self._children
        busy = wall * self._cores - unused
        return Usage(max(0.0, busy - foreign), foreign, dict(charged))


def split(before: Mapping[int, Process], after: Mapping[int, Process]) -> defaultdict[str, float]:
    """Seconds between two readings by name for processes on the path, and under "" for all others together.

    The others come and go; what an ended one had used is found with the parent that reaped it.
    """
    charged: defaultdict[str, float] = defaultdict(float)
    charged[""] = max(0.0, _others(after) - _others(before))
    for pid, process in after.items():
        if not process.on_path:
            continue
        earlier = before.get(pid)
        known = earlier is not None and earlier.seconds <= process.seconds  # a smaller figure is a reused pid
        spent = process.seconds - (earlier.seconds if known and earlier is not None else 0.0)
        charged[process.name] += spent
    return charged


def _others(processes: Mapping[int, Process]) -> float:
    return sum(process.seconds + process.reaped for process in processes.values() if not process.on_path)


def _unused() -> float:
    """Seconds, over all cores, that were idle, iowait or stolen by the hypervisor."""
    values = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle, iowait, steal = int(values[3]), int(values[4]), int(values[7])
    return (idle + iowait + steal) / _TICKS


def _own_seconds() -> tuple[float, float]:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime


def _processes(namespaces: set[tuple[int, int]]) -> dict[int, Process]:
    """Every process but this one and the kernel's own threads, which do the path's work as well as others'."""
    found: dict[int, Process] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            head, _, tail = (entry / "stat").read_text().rpartition(")")
            fields = tail.split()
            if int(fields[6]) & _PF_KTHREAD:
                continue
        except OSError:
            continue  # it has just ended
        try:
            on_path = netns.cookie(entry / "ns/net") in namespaces
        except (NamespaceGoneError, PermissionError):
            on_path = False  # it has ended and waits for its parent, who will be charged; or it is the machine's own
        user, system, reaped_user, reaped_system = (int(value) / _TICKS for value in fields[11:15])
        found[int(entry.name)] = Process(head.partition("(")[2], on_path, user + system, reaped_user + reaped_system)
    return found
