"""The life of the node's Envoy: started, adopted, killed, replaced, and asked over its admin interface."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.config.end import SHARDS
from lockgate.envoy.errors import AdminError, AdminUnreachableError, SupervisorError
from lockgate.envoy.inspection.admin import Admin
from lockgate.envoy.inspection.inspect import read_config
from lockgate.envoy.running import run_files
from lockgate.envoy.running.process import Phase
from lockgate.tests.e2e.redirected_envoy import (
    is_alive,
    pid_of,
    process,
    ready,
    running,
    settings,
    supervisor_of,
    until,
)


async def test_start_adopt_and_stop(run_dir: Path) -> None:
    first = await process(run_dir).ensure()
    assert (first.phase, first.current, first.restarts, first.version) == (Phase.RUNNING, True, 0, "1.40.0")
    # Another agent with the same wishes: nothing is started, nothing is ended.
    second = await process(run_dir).ensure()
    assert (second.supervisor_pid, second.envoy_pid) == (first.supervisor_pid, first.envoy_pid)

    await process(run_dir).stop()
    stopped = await process(run_dir).status()
    assert (stopped.phase, stopped.supervisor_pid, stopped.envoy_pid) == (Phase.STOPPED, None, None)
    assert not is_alive(pid_of(first)) and not is_alive(supervisor_of(first))
    await process(run_dir).stop()


async def test_two_run_dirs_share_nothing(run_dir: Path) -> None:
    other_dir = run_dir / "other"
    other_dir.mkdir()
    content = bootstrap(dataclasses.replace(settings(run_dir, first_policy_timeout=0.1), run_dir=other_dir))
    async with running(run_dir) as one, running(other_dir, content) as other:
        first, second = await one.status(), await other.status()
        ids = [(each / "envoy.base-id").read_text() for each in (run_dir, other_dir)]
        assert ids[0] != ids[1]
        assert first.hot and second.hot

        async def shared() -> bool:
            return {"hot_parent", "hot_child"} <= {name.rpartition("_")[0] for name in os.listdir(run_dir)}  # noqa: PTH208

        await until("the sockets of hot restarts are there", shared)
    # Nothing of it stays in the machine's shared memory.
    assert not {f"envoy_shared_memory_{int(each) * 10}" for each in ids} & set(os.listdir("/dev/shm"))  # noqa: PTH208


async def test_a_killed_envoy_comes_back(run_dir: Path) -> None:
    async with running(run_dir) as envoy, Admin(run_dir / "admin.sock") as admin:
        for restarts in (1, 2, 3):
            await until("Envoy is ready", admin.ready)
            before = await envoy.status()
            os.kill(pid_of(before), signal.SIGKILL)

            async def again(expected: int = restarts) -> bool:
                status = await envoy.status()
                return status.phase is Phase.RUNNING and status.restarts == expected

            await until("Envoy runs again", again)
            after = await envoy.status()
            assert (after.supervisor_pid, after.last_exit) == (before.supervisor_pid, "killed by SIGKILL")
            assert pid_of(after) != pid_of(before)
        await until("Envoy is ready", admin.ready)


async def test_envoy_goes_with_a_killed_supervisor_and_ensure_starts_both_anew(run_dir: Path) -> None:
    async with running(run_dir) as envoy:
        before = await envoy.status()
        os.kill(supervisor_of(before), signal.SIGKILL)

        async def gone() -> bool:
            return not is_alive(pid_of(before))

        await until("Envoy is gone", gone)
        assert (await envoy.status()).phase is Phase.STOPPED
        after = await envoy.ensure()
        assert after.phase is Phase.RUNNING
        assert is_alive(pid_of(after))


AGENT = """
import asyncio, sys, time
from pathlib import Path
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.envoy.running.process import EnvoyProcess
run_dir = Path(sys.argv[1])
content = (run_dir / "wanted").read_bytes()
binary = find_binary()
envoy = EnvoyProcess(run_dir, binary, content, module=find_module(binary), concurrency=2)
status = asyncio.run(envoy.ensure())
print(status.envoy_pid, flush=True)
time.sleep(600)
"""


async def test_envoy_outlives_a_killed_agent_and_is_adopted(run_dir: Path) -> None:
    content = bootstrap(settings(run_dir, first_policy_timeout=0.1))
    (run_dir / "wanted").write_bytes(content)
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", AGENT, str(run_dir), stdout=asyncio.subprocess.PIPE, cwd="/"
    )
    assert agent.stdout is not None
    pid = int(await agent.stdout.readline())
    agent.kill()
    await agent.wait()
    try:
        async with ready(run_dir, content) as admin:
            info = await admin.server_info()
            assert info["state"] == "LIVE"
            status = await process(run_dir, content).status()
            assert (status.envoy_pid, status.restarts) == (pid, 0)
    finally:
        await process(run_dir, content).stop()


async def test_a_crash_loop_backs_off_says_why_and_ends_with_a_good_bootstrap(run_dir: Path) -> None:
    good = bootstrap(settings(run_dir, first_policy_timeout=0.1))
    async with running(run_dir, b"\x0a\x04junk") as envoy:

        async def looped() -> bool:
            return (await envoy.status()).restarts >= 3

        await until("Envoy was started three times", looped)
        status = await envoy.status()
        assert status.last_exit.startswith("exited with status 1: error ")
        assert "has unknown fields" in status.last_exit
        log = (run_dir / run_files.LOG).read_text()
        delays = [line.rsplit(" in ")[-1] for line in log.splitlines() if line.startswith("lockgate: Envoy exited")]
        assert delays[:3] == ["0.05 s", "0.1 s", "0.2 s"]

        async with ready(run_dir, good):
            mended = await process(run_dir, good).status()
            assert (mended.phase, mended.restarts, mended.last_exit) == (Phase.RUNNING, 0, "")


async def test_a_waiting_supervisor_tells_when_and_stops_at_once(run_dir: Path) -> None:
    async with running(run_dir, b"\x0a\x04junk") as envoy:
        status = await envoy.status()

        async def waiting() -> bool:
            nonlocal status
            status = await envoy.status()
            return status.phase is Phase.WAITING and status.retry_in is not None  # and not while one is just started

        await until("the supervisor waits", waiting)
        assert status.retry_in is not None and 0 <= status.retry_in <= 30
        assert status.sentence.startswith("down, starting again in ")
    assert (await envoy.status()).phase is Phase.STOPPED


async def test_a_second_supervisor_gives_way(run_dir: Path) -> None:
    async with running(run_dir) as envoy:
        before = await envoy.status()
        command = [sys.executable, "-P", "-m", "lockgate.envoy.running.supervisor", "--detach", str(run_dir)]
        answer = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, cwd="/")
        assert answer.returncode == 1
        assert answer.stderr == f"{run_dir} has a supervisor already (pid {before.supervisor_pid})\n"
        after = await envoy.status()
        assert (after.supervisor_pid, after.envoy_pid) == (before.supervisor_pid, before.envoy_pid)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Some process that has nothing to do with Envoy."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def state_of(pid: int, ticks: int) -> run_files.SupervisorState:
    """What a supervisor that was killed leaves behind."""
    return run_files.SupervisorState(run_files.RUNNING, 1, pid, ticks, 0.0, 7, "", None, "1.40.0", "d", ("envoy",))


async def test_what_a_crash_left_behind_harms_nobody(run_dir: Path, sleeper: subprocess.Popen[bytes]) -> None:
    ticks = run_files.start_ticks(sleeper.pid)
    assert ticks is not None
    # The pid of the Envoy that was has gone to a stranger since.
    run_files.write_state(run_dir, state_of(sleeper.pid, ticks + 1))
    (run_dir / run_files.LOCK).touch()
    (run_dir / "admin.sock").touch()
    assert (await process(run_dir).status()).phase is Phase.STOPPED
    async with ready(run_dir):
        assert sleeper.poll() is None


async def test_an_envoy_without_a_supervisor_is_ended_before_the_next_one_starts(
    run_dir: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    ticks = run_files.start_ticks(sleeper.pid)
    assert ticks is not None
    run_files.write_state(run_dir, state_of(sleeper.pid, ticks))
    async with running(run_dir):
        assert sleeper.wait() == -signal.SIGKILL


async def test_a_run_dir_that_cannot_be_written(run_dir: Path) -> None:
    (run_dir / "file").touch()
    with pytest.raises(SupervisorError, match="cannot write to the run dir"):
        await process(run_dir / "file" / "below", b"").ensure()


def proc_status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


async def test_envoy_may_do_no_more_than_it_needs(run_dir: Path) -> None:
    async with ready(run_dir):
        pid = pid_of(await process(run_dir).status())
        fields = proc_status(pid)
        bind_service, net_admin = 1 << 10, 1 << 12
        assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == bind_service | net_admin
        assert fields["NoNewPrivs"] == "1"
        assert (run_dir / "admin.sock").stat().st_mode & 0o777 == 0o600


async def test_a_heap_that_is_full_stops_what_is_new(run_dir: Path) -> None:
    full = dataclasses.replace(settings(run_dir, first_policy_timeout=0.1), max_heap=1_000_000)
    async with running(run_dir, bootstrap(full)), Admin(run_dir / "admin.sock") as admin:

        async def active() -> bool:
            try:
                stats = await admin.stats(r"^overload\..*\.active$")
            except AdminUnreachableError:
                return False
            return len(stats) == 5 and set(stats.values()) == {1}

        await until("every action is on", active)
    enough = dataclasses.replace(full, max_heap=2_000_000_000)
    async with ready(run_dir, bootstrap(enough)) as admin:
        stats = await admin.stats(r"^overload\..*")
        assert stats["overload.envoy.overload_actions.stop_accepting_requests.active"] == 0
        assert int(stats["overload.envoy.resource_monitors.fixed_heap.pressure"]) < 85


async def test_admin(run_dir: Path) -> None:
    async with ready(run_dir) as admin:
        assert (await admin.server_info())["command_line_options"]["concurrency"] == 2
        assert [entry["name"] for entry in (await admin.listeners())["listener_statuses"]] == [
            "lockgate.http",
        ]
        assert (await admin.certs()) == {"certificates": []}
        clusters = {entry["name"] for entry in (await admin.clusters())["cluster_statuses"]}
        assert clusters == {"lockgate.xds", "lockgate.original_destination"}
        stats = await admin.stats(r"^server\.(live|concurrency)$")
        assert stats == {"server.live": 1, "server.concurrency": 2}
        assert "envoy_server_live" in await admin.prometheus()
        assert (await admin.logging("debug", "rbac"))["rbac"] == "debug"
        assert set((await admin.logging("error")).values()) == {"error"}
        with pytest.raises(AdminError, match="answered 404: nonsense not found"):
            await admin.config_dump(resource="nonsense")

        config = read_config(await admin.config_dump())
        assert [record.address for record in config.listeners] == ["127.0.0.1:15001, [::1]:15001"]
        names = [
            f"lockgate.http.{direction}.{number}" for direction in ("egress", "ingress") for number in range(SHARDS)
        ]
        assert [(record.name, record.default) for record in config.filters] == [(name, True) for name in sorted(names)]
        assert {record.listeners for record in config.filters} == {("lockgate.http",)}
    assert not await admin.ready()
    with pytest.raises(AdminUnreachableError, match="is it running"):
        await admin.server_info()
    await admin.close()
