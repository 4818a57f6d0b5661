"""One agent for each run directory and each network namespace."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.agent.errors import AlreadyRunningError
from lockgate.agent.machine.lock import AgentLock

CLONE_NEWNET = 0x40000000
HOLDER = """
import sys
from pathlib import Path
from lockgate.agent.machine.lock import AgentLock
with AgentLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_namespace() -> Iterator[None]:
    """The machine may run an agent of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        assert libc.unshare(CLONE_NEWNET) == 0, "needs root"
        yield
        assert libc.setns(home.fileno(), CLONE_NEWNET) == 0


def folder(parent: Path, name: str) -> Path:
    path = parent / name
    path.mkdir()
    return path


def held_by_another_process(run_dir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", HOLDER, str(run_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_agent_of_a_run_directory_is_told_who_has_it(tmp_path: Path) -> None:
    with AgentLock(tmp_path), pytest.raises(AlreadyRunningError) as refused, AgentLock(tmp_path):
        pass
    assert str(refused.value) == (
        f"another agent (pid {os.getpid()}) already uses {tmp_path}; stop it first, or give this one its own --run-dir"
    )


def test_the_second_agent_of_a_network_namespace_is_refused(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "one"), folder(tmp_path, "two")
    with AgentLock(one):
        with pytest.raises(AlreadyRunningError, match="already runs in this network namespace"), AgentLock(two):
            pass
        with pytest.raises(AlreadyRunningError), AgentLock(one):
            pass
    with AgentLock(two):
        pass


def test_agents_of_two_network_namespaces_get_along(tmp_path: Path) -> None:
    one, two = folder(tmp_path, "one"), folder(tmp_path, "two")
    with AgentLock(one):
        assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
        with AgentLock(two):
            pass
        with pytest.raises(AlreadyRunningError, match=f"already uses {one}"), AgentLock(one):
            pass


def test_a_killed_agent_holds_nothing(tmp_path: Path) -> None:
    process = held_by_another_process(tmp_path)
    with process:
        with pytest.raises(AlreadyRunningError, match=rf"another agent \(pid {process.pid}\)"), AgentLock(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    with AgentLock(tmp_path):
        pass


def test_a_lock_can_be_taken_again_after_a_refusal(tmp_path: Path) -> None:
    lock = AgentLock(tmp_path)
    with lock:
        pass
    with AgentLock(tmp_path):
        pass


def test_a_start_that_fails_leaves_a_file_that_is_in_nobodys_way(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), AgentLock(tmp_path):
        raise RuntimeError
    (left,) = tmp_path.iterdir()
    assert (left.name, left.read_text()) == ("agent.lock", f"{os.getpid()}\n")
    process = held_by_another_process(tmp_path)
    with process:
        assert left.read_text() == f"{process.pid}\n"
        with pytest.raises(AlreadyRunningError, match=rf"another agent \(pid {process.pid}\)"), AgentLock(tmp_path):
            pass
        process.kill()
    assert [each.name for each in tmp_path.iterdir()] == ["agent.lock"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_lock_that_is_cleaned_away_while_it_is_taken(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was locked is no longer what the next one finds."""
    run_dir, flock = folder(tmp_path, "run"), fcntl.flock

    def clean_first(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        (run_dir / "agent.lock").unlink()
        if what == "folder":
            run_dir.rmdir()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", clean_first)
    with AgentLock(run_dir):
        assert (run_dir / "agent.lock").read_text() == f"{os.getpid()}\n"
        with pytest.raises(AlreadyRunningError), AgentLock(run_dir):
            pass
