"""Published ports that a proxy of Docker's serves: it is a process of the node, and must be no way round a policy.

Pinned beside the data path:

    PIN_DIR/maps/published_node         which network namespace is the node's
    PIN_DIR/published-links/PROGRAM     one link for each program, to the root of the cgroups
    PIN_DIR/published-programs/...      the programs
"""

from __future__ import annotations

import os
from pathlib import Path

from . import layout
from .kernel import bpffs, cgroup, pinned_link
from .kernel.cgroup import PublishedHook
from .kernel.maps import PinnedMap
from .kernel.netns_cookie import own_cookie
from .kernel.program import Loading

_LINKS, _PROGRAMS = "published-links", "published-programs"


def hold_published(pin_dir: Path, cache_dir: Path) -> None:
    """From now on Docker's proxies connect to endpoints only where anybody may. Blocks for seconds when the programs
    have never been compiled here. Doing it twice is fine.

    Raises:
        BpfUnsupportedError: no cgroups, or the kernel or the caller's rights are not enough.
        ProgramRejectedError: the programs did not compile or load.
    """
    for name in (_LINKS, _PROGRAMS):
        bpffs.ensure_folder(pin_dir / name)
    programs = Loading(pin_dir / "maps", pin_dir / _PROGRAMS, PublishedHook, cache_dir).finish()
    try:
        node = PinnedMap(pin_dir / "maps", layout.PUBLISHED_NODE)
        node.put({0: own_cookie()})
        node.close()
        for hook, fd in programs.items():
            path = pin_dir / _LINKS / hook.program
            if path.exists():
                cgroup.swap(path, fd)
            else:
                cgroup.create_pinned(hook, cgroup.root(), fd, path)
    finally:
        for fd in programs.values():
            os.close(fd)


def free_published(pin_dir: Path) -> None:
    """Take the links away. There may be none."""
    pinned_link.remove_all(pin_dir / _LINKS)
