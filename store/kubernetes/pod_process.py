"""Which process of this node shows a pod's network: by the control group that the kubelet made for the pod.

The name of a pod's control group holds its uid whatever runs the containers and whatever connects them
(https://kubernetes.io/docs/concepts/architecture/cgroups/), with `_` for `-` where systemd manages the groups:
`/kubepods/burstable/podUID/ID`, `/kubepods.slice/kubepods-podUID.slice/cri-containerd-ID.scope`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

from ..process import born

_PROC = Path("/proc")
# A uid, or the hash of a static pod's manifest.
_POD = re.compile(r"pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[./]|$)")


@dataclass(frozen=True, slots=True)
class PodProcess:
    """`born` tells it from another process that gets its number later."""

    pid: int
    born: int

    @property
    def lives(self) -> bool:
        """True while the process is still this one."""
        return born(self.pid) == self.born


def find(uids: Set[str], proc: Path = _PROC) -> dict[str, PodProcess]:
    """The process of each pod that has one here with a network that is not the node's.

    Of a pod's processes the one in the outermost control group, and of those the oldest: the pod's own sandbox rather
    than what a container of it may have started in a network of its own.
    """
    if not uids:
        return {}
    own = _network(proc / "self")
    best: dict[str, tuple[int, int, int]] = {}
    for entry in os.scandir(proc):
        if not entry.name.isdecimal():
            continue
        found = _pod_of(Path(entry.path))
        if found is None or found[0] not in uids:
            continue
        uid, depth = found
        network, start = _network(Path(entry.path)), born(int(entry.name))
        # A sandbox that is being made is in the node's network for a moment; a runtime's monitor stays there.
        if network in (None, own) or start is None:
            continue
        candidate = (depth, start, int(entry.name))
        best[uid] = min(candidate, best.get(uid, candidate))
    return {uid: PodProcess(pid, start) for uid, (_, start, pid) in best.items()}


def _pod_of(process: Path) -> tuple[str, int] | None:
    """The uid and how deep below the node's root the process's group is."""
    try:
        text = (process / "cgroup").read_text(errors="replace")
    except OSError:
        return None
    match = _POD.search(text)
    if match is None:
        return None
    line = text[text.rfind("\n", 0, match.start()) + 1 :].partition("\n")[0]
    return match[1].replace("_", "-"), line.count("/")


def _network(process: Path) -> tuple[int, int] | None:
    try:
        status = (process / "ns" / "net").stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
