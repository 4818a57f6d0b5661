"""Processes of this machine, as /proc shows them."""

from __future__ import annotations

from pathlib import Path


def born(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none. Raises OSError when that cannot be
    told, as without a descriptor."""
    try:
        # The second field is the command in brackets: whatever bytes a process, a pod's too, calls itself.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(fields[19]) if fields[0] not in (b"Z", b"X") else None
