"""A process that has the number of one that has ended, as happens on a machine that runs for long."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LAST = Path("/proc/sys/kernel/ns_last_pid")  # the kernel's next process has the next free number
_TRIES = 1000  # others of the machine start processes meanwhile


@contextmanager
def another(pid: int, start: Callable[[], subprocess.Popen[bytes]]) -> Iterator[subprocess.Popen[bytes]]:
    """One made by `start`, which makes one process at once; killed at the end."""
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # it cannot begin in the tick in which the first one did, as none does
    for _ in range(_TRIES):
        _LAST.write_text(str(pid - 1))
        made = start()
        try:
            if made.pid == pid:
                yield made
                return
        finally:
            made.kill()
            made.wait()
    raise AssertionError(f"no process got the number {pid}")
