"""Threads for what blocks, made before they are needed: where the machine has no room for another one, an agent that
runs goes on."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

_THREADS = 8  # the most that block at a time: a change, a look at files, what is remembered, remote nodes
_PATIENCE = 10.0


def have_threads() -> None:
    """Gives the running event loop its threads. Raises RuntimeError when there can be none."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking")
    together = threading.Barrier(_THREADS)
    for _ in range(_THREADS):  # each waits for the others, so none can do the work of two
        pool.submit(together.wait, _PATIENCE)
    asyncio.get_running_loop().set_default_executor(pool)
