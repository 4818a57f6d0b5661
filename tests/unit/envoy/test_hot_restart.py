"""What Envoys of a hot restart share, and that nobody else does."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from pathlib import Path

import pytest
from lockgate.envoy.running import hot_restart

INITIALIZING = 1


@pytest.fixture(name="memory")
def memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(hot_restart, "_SHARED_MEMORY", memory)
    return memory


@pytest.fixture(name="directory")
def run_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def test_a_base_id_stays_and_is_given_back(directory: Path, memory: Path) -> None:
    base_id = hot_restart.claim(directory)
    assert base_id is not None and base_id > 0
    assert [path.name for path in memory.iterdir()] == [f"envoy_shared_memory_{base_id * 10}"]
    assert hot_restart.claim(directory) == base_id
    (directory / "hot_parent_1").touch()
    hot_restart.forget(directory)
    hot_restart.forget(directory)
    assert list(memory.iterdir()) == list(directory.iterdir()) == []


def test_a_lost_run_dir(directory: Path, memory: Path) -> None:
    base_id = hot_restart.claim(directory)
    (directory / hot_restart.BASE_ID).unlink()
    directory.rmdir()
    hot_restart.forget(directory, base_id)
    assert list(memory.iterdir()) == []


def test_a_base_id_that_somebody_has_is_not_taken(
    directory: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (memory / "envoy_shared_memory_70").touch()
    numbers = iter((7, 7, 8))
    monkeypatch.setattr("random.randrange", lambda *_: next(numbers))
    assert hot_restart.claim(directory) == 8


def test_without_shared_memory(directory: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.rmdir()
    assert hot_restart.claim(directory) is None
    memory.mkdir()
    monkeypatch.setattr("random.randrange", lambda *_: 7)
    (memory / "envoy_shared_memory_70").touch()
    assert hot_restart.claim(directory) is None


def shared(size: int, version: int, flags: int) -> bytes:
    return struct.pack("=QQ", size, version) + b"\xab" * 80 + struct.pack("=Q", flags)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (shared(104, 11, INITIALIZING), shared(104, 11, 0)),
        (shared(104, 11, 0), shared(104, 11, 0)),
        (shared(104, 11, 2 | INITIALIZING), shared(104, 11, 2)),
        # Another Envoy's: nobody knows what stands there.
        (shared(104, 12, INITIALIZING), shared(104, 12, INITIALIZING)),
        (shared(112, 11, INITIALIZING), shared(112, 11, INITIALIZING)),
        (shared(104, 11, INITIALIZING) + b"x", shared(104, 11, INITIALIZING) + b"x"),
        (b"", b""),
    ],
)
def test_the_mark_of_a_dead_successor_is_taken_back(directory: Path, memory: Path, before: bytes, after: bytes) -> None:
    base_id = hot_restart.claim(directory)
    assert base_id is not None
    file = memory / f"envoy_shared_memory_{base_id * 10}"
    file.write_bytes(before)
    hot_restart.mend(directory)
    assert file.read_bytes() == after


def test_nothing_to_mend(directory: Path, memory: Path) -> None:
    hot_restart.mend(directory)
    hot_restart.claim(directory)
    for file in memory.iterdir():
        file.unlink()
    hot_restart.mend(directory)
    assert list(memory.iterdir()) == []


def test_who_accepts_connections() -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            with socket.create_server(("127.0.0.1", 0)), socket.create_server(("::1", 0), family=socket.AF_INET6):
                assert hot_restart.accepts(os.getpid())
                assert not hot_restart.accepts(other.pid)
        finally:
            other.kill()
    assert not hot_restart.accepts(other.pid), "gone"


@pytest.mark.parametrize(("drain", "whole", "half"), [(2, "2", "1"), (300, "300", "150"), (0.5, "2", "1")])
def test_arguments(directory: Path, drain: float, whole: str, half: str) -> None:
    arguments = hot_restart.arguments(directory, 7, 3, drain)
    pairs = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert pairs == {
        "--base-id": "7",
        "--socket-path": str(directory / "hot"),
        "--restart-epoch": "3",
        "--drain-time-s": half,
        "--parent-shutdown-time-s": whole,
    }
