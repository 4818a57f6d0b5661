"""What stays of a run directory. That all else goes, tests/e2e/test_agent_life.py shows."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lockgate.agent.machine.clean import _empty


def test_only_an_agents_files_go_and_the_directory_when_it_is_empty(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    for name in ("agent.lock", "note"):
        (run_dir / name).write_text("")
    assert _empty(run_dir) == ("note",)
    (run_dir / "note").unlink()
    assert _empty(run_dir) == ()
    assert not run_dir.exists()


def test_a_directory_that_is_a_mount_stays_empty(tmp_path: Path) -> None:
    """As it is in a container."""
    (tmp_path / "agent.lock").write_text("")
    subprocess.run(["mount", "--bind", tmp_path, tmp_path], check=True)
    try:
        assert _empty(tmp_path) == ()
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)
