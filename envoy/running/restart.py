"""Replacing the Envoy of a run dir by another of the same kind, without a gap: what `lockgate envoy restart` does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

from ..errors import RestartError
from . import run_files
from .run_files import RUNNING, Launch, SupervisorState

_LOOK_SECONDS = 0.05


class Restarted(NamedTuple):
    """Who took over from whom. The old one goes on for at most `drain` seconds with the connections it has."""

    old_pid: int
    new_pid: int
    epoch: int
    drain: float


async def restart(run_dir: Path, drain: float | None = None) -> Restarted:
    """Returns when the successor has taken over. `drain`, if not None, is what the old one has this time.

    Raises:
        RestartError: none runs, it cannot be replaced like that, or the successor did not take over: then the old one
            goes on.
    """
    before = _state(run_dir)
    if not before.hot or before.phase != RUNNING:
        raise RestartError(
            "Envoy is not running"
            if before.phase != RUNNING
            else "this Envoy was started without hot restarts; "
            "'lockgate agent clean' and a new start of the agent change that"
        )
    if before.starting is not None:
        raise RestartError("Envoy is being replaced already; wait until 'lockgate status' says that it is done")
    if before.leaving is not None:
        raise RestartError(
            f"the Envoy before this one (pid {before.leaving[0]}) still ends its last connections; try again when it "
            "is gone, at most the drain time after it was replaced"
        )
    usual = run_files.read_launch(run_dir)
    if drain is None:
        return await _restart(run_dir, before, usual)
    launch = usual._replace(drain=drain)
    run_files.write_launch(run_dir, launch)
    try:
        return await _restart(run_dir, before, launch)
    finally:
        run_files.write_launch(run_dir, usual)


async def _restart(run_dir: Path, before: SupervisorState, launch: Launch) -> Restarted:
    os.kill(before.supervisor_pid, signal.SIGHUP)
    deadline = time.monotonic() + launch.patience + 5
    began = False
    while time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_SECONDS)
        now = _state(run_dir)
        began = began or now.starting is not None
        if now.envoy_pid and now.envoy_pid != before.envoy_pid:
            if now.epoch == before.epoch + 1:
                return Restarted(before.envoy_pid, now.envoy_pid, now.epoch, launch.drain)
            raise RestartError(f"Envoy ended while it was being replaced and was started anew: {now.last_exit}")
        if began and now.starting is None:
            why = now.hot_failure or now.last_exit or "it ended"
            raise RestartError(f"the new Envoy did not take over, the old one goes on: {why}")
    raise RestartError(f"the new Envoy did not take over within {launch.patience:.0f} s, the old one goes on")


def _state(run_dir: Path) -> SupervisorState:
    state, holder = run_files.read_state(run_dir), run_files.lock_holder(run_dir)
    if state is None or state.supervisor_pid != holder:
        raise RestartError(f"no Envoy runs in {run_dir}; start the agent")
    return state
