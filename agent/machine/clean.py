"""Taking away what an agent leaves behind: Envoy, eBPF programs, maps, routes, rules and the run directory."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

from ...envoy.config.access_log import FILE_NAME as ACCESS_LOG
from ...envoy.running import hot_restart, run_files
from ...envoy.running.binary import find_binary
from ...envoy.running.process import EnvoyProcess
from ...redirect.datapath import Datapath
from ..errors import HostError
from ..settings import Settings
from .host import make_own_dir
from .lock import AgentLock

# Each also with what rotation and atomic writing append to its name.
_FILES = (
    *("agent.lock", "agent.sock", run_files.XDS_SOCKET, *run_files.FORMER_XDS_SOCKETS),
    *(run_files.ADMIN_SOCKET, ACCESS_LOG),
    *(run_files.BOOTSTRAP, run_files.LOCK, run_files.LAUNCH, run_files.STATE, run_files.LOG, hot_restart.BASE_ID),
)


async def clean_node(run_dir: Path) -> tuple[str, ...]:
    """Takes away everything that an agent of `run_dir` left in this network namespace; nothing is enforced then.

    Returns the names in `run_dir` that are no agent's: they stay, and the directory with them.

    Raises:
        AlreadyRunningError: the agent still runs.
        HostError: not root, or no such directory can be.
    """
    settings = Settings(policies=Path("/"), workloads=Path("/"), run_dir=run_dir)
    if os.geteuid() != 0:
        raise HostError("not root: taking eBPF programs away needs root; run it with sudo")
    make_own_dir(run_dir, "--run-dir")
    with AgentLock(run_dir):
        await EnvoyProcess(run_dir, find_binary(), b"").stop()
        hot_restart.forget(run_dir)  # of a supervisor that was killed
        await asyncio.to_thread(Datapath.remove_pinned, settings.pin_dir)
        return _empty(run_dir)


def _empty(run_dir: Path) -> tuple[str, ...]:
    """Never the whole tree: the directory may be one that somebody named by mistake."""
    for path in run_dir.iterdir():
        if any(path.name == name or path.name.startswith(f"{name}.") for name in _FILES) and not path.is_dir():
            path.unlink()
    strangers = tuple(sorted(path.name for path in run_dir.iterdir()))
    if not strangers:
        try:
            run_dir.rmdir()
        except OSError as error:
            # A volume of a container: it stays, empty. Or an agent that starts has made its lock.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
    return strangers
