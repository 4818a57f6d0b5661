"""An Envoy that lives and does nothing, wholly or with one thread, and a supervisor that does: who notices, and what
becomes of it. Also who must be left alone."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.running import run_files, supervisor_watch
from lockgate.envoy.running.process import EnvoyProcess, EnvoyStatus, Phase
from lockgate.envoy.running.thread_looks import threads
from lockgate.tests.e2e.redirected_envoy import (  # noqa: F401
    is_alive,
    namespace_of_its_own,
    pid_of,
    process,
    running,
    settings,
    short_run_dir,
    supervisor_of,
    until,
)
from lockgate.tests.e2e.wedge import Way, wedge

HANG = 5.0


async def ready(envoy: EnvoyProcess) -> EnvoyStatus:
    """Waits until it is."""
    async with Admin(envoy.run_dir / "admin.sock") as admin:
        await until("Envoy is ready", admin.ready)
    return await envoy.status()


async def replaced(envoy: EnvoyProcess, before: EnvoyStatus) -> EnvoyStatus:
    """Waits until another one serves, as an agent does."""

    async def another() -> bool:
        status = await envoy.ensure()
        return status.serves_as_wanted and status.envoy_pid != before.envoy_pid

    await until("another one serves", another)

    async def gone() -> bool:
        return not is_alive(pid_of(before))

    await until("the one before is gone", gone)
    return await ready(envoy)


async def test_one_that_is_stopped_is_told_of_and_replaced(run_dir: Path) -> None:
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        os.kill(pid_of(before), signal.SIGSTOP)

        async def told() -> bool:
            return "has done nothing for" in (await envoy.status()).sentence

        await until("it is told of", told)
        after = await replaced(envoy, before)
        assert (after.supervisor_pid, after.restarts, after.hangs) == (before.supervisor_pid, 1, 1)
        assert after.last_exit.startswith("hung (") and after.last_exit.endswith("and was killed")
        assert after.silent is None
        assert "hung (" in (run_dir / "envoy.log").read_text()


@pytest.mark.parametrize("way", list(Way))
async def test_one_worker_that_hangs_is_noticed(run_dir: Path, way: Way) -> None:
    """The admin interface answers all the while."""
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        workers = dict(threads(pid_of(before), "wrk:"))
        assert sorted(workers.values()) == ["worker_0", "worker_1"]
        wedge(pid_of(before), next(iter(workers)), way)
        async with Admin(run_dir / "admin.sock") as admin:
            assert await admin.ready()
        after = await replaced(envoy, before)
        assert f"hung ({next(iter(workers.values()))}: nothing for" in after.last_exit


async def test_a_machine_that_was_suspended_is_no_hang(run_dir: Path) -> None:
    """Envoy and its supervisor stop together, for longer than one of them may, and once more."""
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        both = (supervisor_of(before), pid_of(before))
        for _ in range(2):
            for pid in both:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(HANG + 1)
            for pid in reversed(both):
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(1)
        after = await ready(envoy)
        assert (after.envoy_pid, after.hangs, after.silent) == (before.envoy_pid, 0, None)


async def test_nobody_looks_where_nobody_is_to(run_dir: Path) -> None:
    """An agent with other settings tells the supervisor that runs."""
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        assert not (await process(run_dir, hang=0).ensure()).silent

        async def heard() -> bool:
            state = run_files.read_state(run_dir)
            return state is not None and state.hang == 0

        await until("the supervisor has heard", heard)
        os.kill(pid_of(before), signal.SIGSTOP)
        await asyncio.sleep(HANG + 2)
        assert (await envoy.status()).envoy_pid == before.envoy_pid
        await envoy.ensure()
        assert (await replaced(envoy, before)).supervisor_pid == before.supervisor_pid


async def test_the_old_one_hangs_when_it_is_to_be_replaced(run_dir: Path) -> None:
    """Its successor waits for it, and neither may for ever."""
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        os.kill(pid_of(before), signal.SIGSTOP)
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)), hang=HANG)
        coming = await other.ensure()
        assert coming.starting_pid is not None
        after = await replaced(other, before)
        assert after.current and not is_alive(coming.starting_pid)
        assert after.supervisor_pid == before.supervisor_pid


async def test_the_new_one_hangs_before_it_has_taken_over(run_dir: Path) -> None:
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)), hang=HANG, patience=2)
        coming = await other.ensure()
        assert coming.starting_pid is not None
        os.kill(coming.starting_pid, signal.SIGSTOP)

        async def gone() -> bool:
            return not is_alive(coming.starting_pid or 0)

        await until("it is gone", gone)
        after = await replaced(other, before)
        assert (after.restarts, after.hangs, after.current) == (0, 0, True), (
            "the old one has gone on until the next try"
        )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_watch, "PATIENCE", 2.0)


@pytest.mark.usefixtures("impatient")
async def test_a_supervisor_that_hangs_is_let_be_as_long_as_envoy_serves(run_dir: Path) -> None:
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        os.kill(supervisor_of(before), signal.SIGSTOP)

        async def told() -> bool:
            return (await envoy.ensure()).supervisor_idle

        await until("it is told of", told)
        for _ in range(70):
            await asyncio.sleep(0.1)
            status = await envoy.ensure()
        assert f"its supervisor (pid {before.supervisor_pid}) hangs" in status.sentence
        assert status.envoy_pid == before.envoy_pid
        os.kill(supervisor_of(before), signal.SIGCONT)

        async def well() -> bool:
            return not (await envoy.ensure()).supervisor_idle

        await until("all is well", well)
        assert (await envoy.status()).envoy_pid == before.envoy_pid


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_supervisor_that_hangs_when_it_is_needed_is_replaced(run_dir: Path, number: signal.Signals) -> None:
    """Envoy is gone, or hangs too."""
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        os.kill(supervisor_of(before), signal.SIGSTOP)
        os.kill(pid_of(before), number)
        after = await replaced(envoy, before)
        assert after.phase is Phase.RUNNING
        assert after.supervisor_pid != before.supervisor_pid and not is_alive(supervisor_of(before))


@pytest.mark.usefixtures("impatient")
async def test_a_supervisor_that_does_not_hear_is_replaced(run_dir: Path) -> None:
    async with running(run_dir, hang=HANG) as envoy:
        before = await ready(envoy)
        os.kill(supervisor_of(before), signal.SIGSTOP)
        other = process(run_dir, bootstrap(settings(run_dir, first_policy_timeout=0.2)), hang=HANG)
        after = await replaced(other, before)
        assert after.current and after.supervisor_pid != before.supervisor_pid
