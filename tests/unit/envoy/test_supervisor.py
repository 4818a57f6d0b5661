"""The supervisor's pure parts; its life is in tests/e2e/envoy_process/test_life.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lockgate.envoy.running import run_files
from lockgate.envoy.running.last_words import LastWords, exit_in_words
from lockgate.envoy.running.log_file import LogFile

INFO = b"[2026-01-01 00:00:00.000][12][info][main] [source/server/server.cc:414] starting\n"
ERROR = b"[2026-01-01 00:00:00.000][12][error][config] [./source/x.h:1] bad thing\n"
CRITICAL = b"[2026-01-01 00:00:00.000][12][critical][main] [source/server/server.cc:9] error initializing config\n"


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([INFO], ""),
        ([INFO, ERROR, INFO], "bad thing"),
        ([CRITICAL, ERROR], "error initializing config"),
        ([ERROR, CRITICAL], "error initializing config"),
        ([ERROR[:30], ERROR[30:]], "bad thing"),
        ([INFO + ERROR + CRITICAL], "error initializing config"),
        ([b"envoy: error while loading shared libraries\n"], "envoy: error while loading shared libraries"),
        ([b"PARSE ERROR\n\n", CRITICAL], "error initializing config"),
        ([CRITICAL, b"continued\n"], "error initializing config"),
        ([b"\xff\xfe\n"], "\N{REPLACEMENT CHARACTER}" * 2),
    ],
)
def test_last_words(pieces: list[bytes], words: str) -> None:
    last = LastWords()
    for piece in pieces:
        last.hear(piece)
    assert str(last) == words


def test_last_words_are_short_whatever_is_said() -> None:
    last = LastWords()
    last.hear(b"x" * 1_000_000)
    last.hear(b"\n")
    assert len(str(last)) <= 300


@pytest.mark.parametrize(
    ("status", "last_words", "sentence"),
    [
        (0, "", "exited with status 0"),
        (1 << 8, "bad config", "exited with status 1: bad config"),
        (int(signal.SIGKILL), "", "killed by SIGKILL"),
        (int(signal.SIGSEGV) | 0x80, "oops", "killed by SIGSEGV: oops"),
        (40, "", "killed by signal 40"),
    ],
)
def test_exit_in_words(status: int, last_words: str, sentence: str) -> None:
    assert exit_in_words(status, last_words) == sentence


def test_the_log_is_bounded_and_loses_nothing_recent(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFile(path, limit=100)
    for number in range(50):
        log.write(b"line %2d\n" % number)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 200
    kept = (tmp_path / "envoy.log.1").read_bytes() + path.read_bytes()
    assert kept.endswith(b"line 48\nline 49\n")
    assert kept.splitlines() == [b"line %2d" % number for number in range(50 - len(kept.splitlines()), 50)]
    os.close(log.descriptor)


def test_a_log_that_cannot_be_followed_by_another_costs_lines_alone(tmp_path: Path) -> None:
    path = tmp_path / "envoy.log"
    log = LogFile(path, limit=10)
    log.write(b"line 1\n")
    (tmp_path / "envoy.log.1").mkdir()  # as on a disk that is broken
    log.write(b"line 2\n")
    (tmp_path / "envoy.log.1").rmdir()
    log.write(b"line 3\n")
    assert path.read_bytes() == b"line 3\n"
    assert (tmp_path / "envoy.log.1").read_bytes() == b"line 1\n"
    os.close(log.descriptor)


def test_an_old_log_is_continued(tmp_path: Path) -> None:
    (tmp_path / "envoy.log").write_bytes(b"before\n")
    log = LogFile(tmp_path / "envoy.log", limit=100)
    log.write(b"after\n")
    os.close(log.descriptor)
    assert (tmp_path / "envoy.log").read_bytes() == b"before\nafter\n"


def supervise(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "lockgate.envoy.running.supervisor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/")


def test_usage() -> None:
    answer = supervise()
    assert answer.returncode == 2
    assert answer.stderr.startswith("usage:")


@pytest.mark.parametrize("detach", [[], ["--detach"]])
def test_nothing_to_launch(tmp_path: Path, detach: list[str]) -> None:
    answer = supervise(*detach, str(tmp_path))
    assert answer.returncode == 1
    assert answer.stderr.startswith(f"cannot supervise Envoy in {tmp_path}: ")
    assert run_files.lock_holder(tmp_path) is None


def test_a_run_dir_that_is_not_there(tmp_path: Path) -> None:
    answer = supervise("--detach", str(tmp_path / "nowhere"))
    assert answer.returncode == 1
    assert "No such file" in answer.stderr
