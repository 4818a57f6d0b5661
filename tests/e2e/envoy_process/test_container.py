"""What Envoy needs to outlive the container of its agent: other control groups, and the paths of another container."""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lockgate.envoy.errors import SupervisorError
from lockgate.envoy.running import run_files
from lockgate.envoy.running.child import EnvoyChild
from lockgate.envoy.running.control_group import elsewhere
from lockgate.envoy.running.file_system import FileSystem
from lockgate.redirect.kernel.cgroup import root as cgroup_root
from lockgate.tests.e2e.redirected_envoy import (
    PATIENCE,
    pid_of,
    process,
    supervisor_of,
)


async def test_envoy_is_in_another_control_group(run_dir: Path) -> None:
    """And in none of its agent's, whatever hierarchies there are."""
    group = cgroup_root() / f"lg-test-{os.getpid()}"
    group.mkdir()
    envoy = process(run_dir, control_group=f"/{group.name}")
    try:
        status = await envoy.ensure()
        for pid in (pid_of(status), supervisor_of(status)):
            groups = text_of(pid, "cgroup")
            assert not elsewhere(groups, f"/{group.name}") and f"0::/{group.name}\n" in groups
    finally:
        await envoy.stop()
        group.rmdir()


@pytest.fixture
def parent() -> Iterator[Path]:
    """A group of cgroup v2 that gives its children what version 1 has left of controllers."""
    root = cgroup_root()
    group = root / f"lg-parent-{os.getpid()}"
    before = (root / "cgroup.subtree_control").read_text().split()
    left = (root / "cgroup.controllers").read_text().split()
    group.mkdir()
    for place in (root, group):
        (place / "cgroup.subtree_control").write_text(" ".join(f"+{each}" for each in left))
    yield group
    group.rmdir()
    (root / "cgroup.subtree_control").write_text(" ".join(f"-{each}" for each in left if each not in before))


async def test_a_group_that_takes_no_process(run_dir: Path, parent: Path) -> None:
    """As systemd's slices are in cgroup v2."""
    assert (parent / "cgroup.subtree_control").read_text().split(), "version 1 has all controllers of this machine"
    envoy = process(run_dir, control_group=f"/{parent.name}")
    with pytest.raises(SupervisorError, match=f"takes no process, and /{parent.name} does; write 'envoy_cgroup: /'"):
        await envoy.ensure()


def text_of(pid: int, file: str) -> str:
    return Path(f"/proc/{pid}/{file}").read_text()


def test_a_program_of_another_file_system(tmp_path: Path) -> None:
    """It is found only where a process is that mounted it, also when that has ended since."""
    (tmp_path / "shown").mkdir()
    (tmp_path / "kept").mkdir()
    program = tmp_path / "kept" / "program"
    program.write_text("#!/bin/sh\necho here\n")
    program.chmod(0o755)
    script = f"mount --bind {tmp_path}/kept {tmp_path}/shown && echo ready && exec sleep 1000"
    other = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline() == b"ready\n"
    there = FileSystem(other.pid)
    other.kill()
    other.communicate()
    launch = run_files.Launch((str(tmp_path / "shown" / "program"),), "1", "d")
    assert run(launch, there) == (b"here\n", "exited with status 0: here")
    said, ended = run(launch, FileSystem(0))
    assert said.endswith(b"/shown/program did not start: No such file or directory\n") and "127" in ended
    with pytest.raises(FileNotFoundError):
        FileSystem(other.pid)


def run(launch: run_files.Launch, files: FileSystem) -> tuple[bytes, str]:
    """What it said, and how it ended."""
    said: list[bytes] = []
    child = EnvoyChild(launch, [], said.append, files)
    select.select([child.pidfd], [], [], PATIENCE)
    ended = child.ended()
    return b"".join(said), ended
