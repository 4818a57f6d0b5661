"""Notices control groups of workloads that come, go, or are made anew under their path: systemd does at each start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ...policies.workload import Workload
from ...redirect.control_group import parents, present
from ...store import FolderWatch

_LOOK_SECONDS = 2.0  # where nobody tells


async def follow_groups(workloads: Callable[[], Iterable[Workload]], look_again: Callable[[], None]) -> None:
    """Calls `look_again` whenever one of them is another than before. `workloads` are those listed now."""
    before: dict[str, int] = {}
    with FolderWatch() as watch:
        while True:
            listed = [each.cgroup for each in workloads() if each.cgroup is not None]
            if watch.follow(parents(listed)):
                continue  # what came up to now was not told of
            now = present(listed)
            if now != before:
                look_again()
            before = now
            await watch.next(time.monotonic() + _LOOK_SECONDS)
