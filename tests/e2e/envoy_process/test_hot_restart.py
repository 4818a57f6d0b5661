"""The node's Envoy is replaced by one with another bootstrap while it serves, and what may go wrong then."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.errors import RestartError
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.envoy.running.process import EnvoyProcess, Phase
from lockgate.envoy.running.restart import restart
from lockgate.tests.e2e.redirected_envoy import (
    PATIENCE,
    is_alive,
    pid_of,
    process,
    ready,
    running,
    settings,
    supervisor_of,
    until,
)


async def test_another_bootstrap_replaces_envoy_while_it_serves(run_dir: Path) -> None:
    async with ready(run_dir):
        before = await process(run_dir).status()
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)))
        assert not (await other.status()).current
        coming = await other.ensure()
        assert (coming.envoy_pid, coming.coming) == (before.envoy_pid, True)
        again = await other.ensure()
        assert (again.supervisor_pid, again.starting_pid) == (before.supervisor_pid, coming.starting_pid)

        async def took_over() -> bool:
            return (await other.status()).current

        await until("the new Envoy has taken over", took_over)
        after = await other.status()
        assert (after.envoy_pid, after.leaving_pid) == (coming.starting_pid, before.envoy_pid)
        assert (after.supervisor_pid, after.epoch, after.restarts) == (before.supervisor_pid, 1, 0)

        async def gone() -> bool:
            return not is_alive(pid_of(before))

        await until("the old one is gone", gone)
        await until("the supervisor has seen it", lambda: nobody_leaves(other))


async def nobody_leaves(envoy: EnvoyProcess) -> bool:
    return (await envoy.status()).leaving_pid is None


async def test_without_hot_restarts_another_bootstrap_ends_the_old_one_first(run_dir: Path) -> None:
    binary = find_binary()
    content = bootstrap(settings(run_dir, first_policy_timeout=0.1))
    old = EnvoyProcess(run_dir, binary, content, module=find_module(binary), concurrency=2, drain=0)
    try:
        before = await old.ensure()
        assert not before.hot
        with pytest.raises(RestartError, match="without hot restarts"):
            await restart(run_dir)
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)))
        after = await other.ensure()
        assert after.current and after.hot
        assert not is_alive(pid_of(before)) and not is_alive(supervisor_of(before))
    finally:
        await old.stop()


async def test_a_successor_that_cannot_start_changes_nothing(run_dir: Path) -> None:
    async with ready(run_dir):
        before = await process(run_dir).status()
        broken = process(run_dir, b"\x0a\x04junk")
        await broken.ensure()

        async def failed() -> bool:
            return bool((await broken.status()).hot_failure)

        await until("its successor has failed", failed)
        status = await broken.status()
        assert (status.envoy_pid, status.phase, status.restarts) == (before.envoy_pid, Phase.RUNNING, 0)
        assert "has unknown fields" in status.hot_failure
        assert "its replacement failed and is tried again" in status.sentence
        # The one that serves is killed: what is started again is what served, not what never did.
        os.kill(pid_of(before), signal.SIGKILL)

        async def again() -> bool:
            return (await broken.status()).restarts == 1 and (await process(run_dir).status()).current

        await until("the old kind serves again", again)
        # What was wrong is put right: the next wish is fulfilled, though a failed one has marked the shared memory.
        good = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)))

        async def wished() -> bool:
            status = await good.ensure()
            return status.current and not status.hot_failure

        await until("the mended kind serves", wished)


@pytest.mark.parametrize("victim", ["starting", "serving"])
async def test_either_may_be_killed_while_the_other_takes_over(run_dir: Path, victim: str) -> None:
    """Its successor waits for policies that never come here, so that there is time to kill one of the two."""
    async with running(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.1))) as envoy:
        async with Admin(run_dir / "admin.sock") as admin:
            await until("Envoy is ready", admin.ready)
        before = await envoy.status()
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=PATIENCE)))
        coming = await other.ensure()
        assert coming.starting_pid is not None
        os.kill(coming.starting_pid if victim == "starting" else pid_of(before), signal.SIGKILL)

        async def over() -> bool:
            status = await other.status()
            return status.phase is Phase.RUNNING and coming.starting_pid not in (
                status.starting_pid,
                status.leaving_pid,
            )

        await until("the supervisor has seen it", over)
        after = await other.status()
        if victim == "starting":
            assert (after.envoy_pid, after.restarts, after.hot_failure) == (before.envoy_pid, 0, "killed by SIGKILL")
        else:
            assert (after.restarts, after.last_exit) == (1, "killed by SIGKILL")
            assert not is_alive(coming.starting_pid)
        assert after.supervisor_pid == before.supervisor_pid
