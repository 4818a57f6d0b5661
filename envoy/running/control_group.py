"""Moving to a control group in which nothing of a container's end is this process's end.

When a container ends its engine kills every process in its control groups, and a kubelet kills what is left in those
of a pod. Envoy and its supervisor outlive the container of the agent in a group elsewhere: in the one hierarchy of
cgroup v2, in each of v1. https://docs.kernel.org/admin-guide/cgroup-v2.html#organizing-processes-and-threads
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_CLONE_NEWCGROUP = 0x02000000
_INITIAL = 0xEFFFFFFB  # PROC_CGROUP_INIT_INO of the kernel: the machine's own view
_PROC = Path("/proc")
ROOT = "/"

_libc = ctypes.CDLL(None, use_errno=True)


def hierarchies(mountinfo: str) -> list[Path]:
    """Where whole hierarchies can be seen, by the text of /proc/self/mountinfo (proc_pid_mountinfo(5))."""
    found: dict[Path, bool] = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 4 and after.split()[:1] in (["cgroup"], ["cgroup2"]):
            path = Path(fields[4].encode().decode("unicode_escape"))
            found[path] = fields[3] == ROOT  # what was mounted last is what is seen
    return [path for path, whole in found.items() if whole]


def elsewhere(groups: str, group: str) -> list[str]:
    """Of the text of /proc/PID/cgroup the lines of hierarchies in which the process is neither in `group` nor in the
    root, as it is where a hierarchy of v1 is mounted nowhere."""
    return [line for line in groups.splitlines() if line.split(":", 2)[2] not in (ROOT, group)]


def join(group: str) -> None:
    """Move this process to `group` (/, /NAME, /NAME/NAME), in hierarchies where there is none to the root.

    Making one would take CAP_DAC_OVERRIDE: the root of a hierarchy is not even root's to write.
    Raises OSError when it cannot move, or is then still in a group of somebody else.
    """
    _see_all()
    for top in hierarchies((_PROC / "self/mountinfo").read_text()):
        place = top / group.lstrip("/")
        _move(place if place.is_dir() else top, group)
    left = elsewhere((_PROC / "self/cgroup").read_text(), group)
    if left:
        raise OSError(errno.EBUSY, f"it stays in the control group {left[0]}: nothing is mounted here to move it by")


def _move(place: Path, group: str) -> None:
    try:
        (place / "cgroup.procs").write_text("0")
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise OSError(
            errno.EBUSY,
            "in cgroup v2 a group that gives controllers to its children (cgroup.subtree_control) takes no process, "
            f"and {group} does; write 'envoy_cgroup: /', or a group without children",
        ) from None


def _see_all() -> None:
    """Leave the container's view of control groups, if it has one: in it nobody can move to where it does not see."""
    own, init = (_PROC / "self/ns/cgroup").stat().st_ino, _PROC / "1/ns/cgroup"
    if own == _INITIAL:
        return
    descriptor = os.open(init, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_ino != own and _libc.setns(descriptor, _CLONE_NEWCGROUP) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(init))
    finally:
        os.close(descriptor)
