"""The files through which agent and supervisor know each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lockgate.envoy.running import run_files
from lockgate.envoy.running.run_files import (
    Launch,
    SupervisorState,
    lock_holder,
    read_launch,
    read_state,
    start_ticks,
    write_launch,
    write_state,
)
from lockgate.tests.scarcity import disk, full

STATE = SupervisorState(
    phase=run_files.WAITING,
    supervisor_pid=10,
    envoy_pid=0,
    envoy_ticks=0,
    since=1.5,
    restarts=2,
    last_exit="killed by SIGKILL",
    next_try=2.5,
    version="1.40.0",
    digest="d",
    command=("envoy", "-c", "x"),
)
LAUNCH = Launch(command=("envoy", "-c", "x"), version="1.40.0", digest="d")
HOLD = """
import sys, time
from pathlib import Path
from lockgate.envoy.running.run_files import take_lock
print(take_lock(Path(sys.argv[1])), flush=True)
time.sleep(600)
"""


def holder(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True, cwd="/"
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_what_another_version_wrote_is_read_as_far_as_it_is_known(tmp_path: Path) -> None:
    launch = Launch(command=("envoy",), version="1.40.0", digest="d")
    write_launch(tmp_path, launch)
    write_state(tmp_path, STATE)
    launched, state = (json.loads((tmp_path / name).read_text()) for name in (run_files.LAUNCH, run_files.STATE))
    assert "hang" not in launched, "one of an earlier version would not read it"
    (tmp_path / run_files.LAUNCH).write_text(json.dumps({**launched, "later": 1}))
    (tmp_path / run_files.STATE).write_text(json.dumps({**state, "later": 1}))
    assert (read_launch(tmp_path), read_state(tmp_path)) == (launch, STATE)


def test_state_and_launch_survive_the_disk(tmp_path: Path) -> None:
    launch = Launch(command=("envoy",), version="1.40.0", digest="d", grace=1.0)
    write_state(tmp_path, STATE)
    write_launch(tmp_path, launch)
    assert read_state(tmp_path) == STATE
    assert read_launch(tmp_path) == launch
    left = [run_files.LAUNCH, run_files.STATE, f"{run_files.STATE}.spare"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert (tmp_path / run_files.STATE).stat().st_mode & 0o777 == 0o600


def test_a_supervisor_of_an_earlier_version_is_told_nothing_that_it_does_not_know(tmp_path: Path) -> None:
    later = {"control_group", "paths_of"}
    write_launch(tmp_path, Launch(("envoy",), "1.40.0", "d"))
    assert not later & set(json.loads((tmp_path / run_files.LAUNCH).read_text()))
    launch = Launch(("envoy",), "1.40.0", "d", control_group="/", paths_of=7)
    write_launch(tmp_path, launch)
    assert read_launch(tmp_path) == launch


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"command": [], "phase": "running"}', b"\xff"])
def test_a_damaged_state_is_no_state(tmp_path: Path, content: bytes) -> None:
    (tmp_path / run_files.STATE).write_bytes(content)
    assert read_state(tmp_path) is None


def test_no_state_and_no_launch(tmp_path: Path) -> None:
    assert read_state(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        read_launch(tmp_path)


@pytest.mark.parametrize("content", ["{}", '{"command": ["x"], "colour": 1}'])
def test_a_damaged_launch_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / run_files.LAUNCH).write_text(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_launch(tmp_path)


def test_the_lock_names_its_holder_until_that_is_killed(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    first = holder(tmp_path)
    assert first_line(first) == "True"
    assert lock_holder(tmp_path) == first.pid
    second = holder(tmp_path)
    assert first_line(second) == "False"
    end(second)
    assert lock_holder(tmp_path) == first.pid
    end(first)
    assert lock_holder(tmp_path) is None
    assert (tmp_path / run_files.LOCK).exists()


def test_start_ticks_tell_processes_apart() -> None:
    assert start_ticks(os.getpid()) == start_ticks(os.getpid())
    process = subprocess.Popen(["sleep", "600"])
    ticks = start_ticks(process.pid)
    assert ticks is not None
    parent = start_ticks(os.getpid())
    assert parent is not None and ticks >= parent
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert start_ticks(process.pid) is None  # dead, and not yet reaped
    process.wait()
    assert start_ticks(process.pid) is None


def test_the_state_takes_no_room_once_it_has_been_told(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with disk(run_dir, 64):
        for restarts in range(2):
            write_state(run_dir, STATE._replace(restarts=restarts))
        with full(run_dir):
            for restarts in range(2, 9):
                state = STATE._replace(restarts=restarts, last_exit="x" * 300 * (restarts % 2))
                write_state(run_dir, state)
                assert read_state(run_dir) == state
            with pytest.raises(OSError, match="No space left"):
                write_launch(run_dir, LAUNCH)
            assert sorted(path.name for path in run_dir.iterdir()) == ["envoy.json", "envoy.json.spare", "filler"]


def test_a_launch_that_is_there_already_takes_no_room(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with disk(run_dir, 64):
        write_launch(run_dir, LAUNCH)
        with full(run_dir):
            write_launch(run_dir, LAUNCH)
        assert read_launch(run_dir) == LAUNCH
