"""When a process started, whatever it calls itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from lockgate.store.process import born


def test_when_a_process_started() -> None:
    ended = subprocess.Popen(["true"])
    ended_at = born(ended.pid)
    ended.wait()
    assert born(ended.pid) is None
    mine = born(os.getpid())
    assert mine is not None and (ended_at is None or ended_at >= mine)


@pytest.mark.parametrize("name", [b"\xff\xfe", b") Z 1 (", b"a b", b"\xff) X 1"])
def test_a_process_calls_itself_what_it_likes(tmp_path: Path, name: bytes) -> None:
    """Pods do too, and the agent looks at all of them."""
    command = tmp_path / os.fsdecode(name)
    command.symlink_to("/bin/cat")
    with subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"x")
        assert process.stdout.read(1) == b"x", "it is itself by now"
        assert Path(f"/proc/{process.pid}/comm").read_bytes() == name + b"\n"
        since, mine = born(process.pid), born(os.getpid())
    assert since is not None and mine is not None and since >= mine
