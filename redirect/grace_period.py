"""Attaching a program to an interface waits until no CPU uses what was there before: an RCU grace period.

That takes 10 to 30 ms, one interface after the other, and a pod that was just found is not policed before. Asked to
expedite, the kernel interrupts every CPU for it and needs a tenth of a millisecond
(https://docs.kernel.org/RCU/checklist.html, and rcu_expedited in
https://docs.kernel.org/admin-guide/kernel-parameters.html).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SWITCH = Path("/sys/kernel/rcu_expedited")
_MARK = Path("/run/lockgate.rcu_expedited")  # there while an agent has it on: one that is killed leaves both behind


@contextmanager
def expedited(switch: Path = _SWITCH, mark: Path = _MARK) -> Iterator[None]:
    """Grace periods are short meanwhile; as long as ever where the switch cannot be written, as in some containers."""
    fd = _turn_on(switch, mark)
    try:
        yield
    finally:
        if fd is not None:
            os.pwrite(fd, b"0", 0)
            mark.unlink(missing_ok=True)
            os.close(fd)


def _turn_on(switch: Path, mark: Path) -> int | None:
    """A descriptor to turn it off again by; None when it is on without us, or cannot be."""
    try:
        fd = os.open(switch, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # another agent's, who turns it off when it is done
        if os.pread(fd, 8, 0).strip() == b"0" or mark.exists():
            mark.touch()
            os.pwrite(fd, b"1", 0)
            return fd
    except OSError:
        pass
    os.close(fd)
    return None
