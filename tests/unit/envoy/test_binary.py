"""Finding the pinned Envoy binary."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lockgate.envoy.errors import BinaryError
from lockgate.envoy.running import binary
from lockgate.envoy.running.binary import VERSION, find_binary


def test_the_wheel_holds_the_pinned_version() -> None:
    found = find_binary()
    assert found.version == VERSION
    assert found.path.is_absolute()
    assert found.path.read_bytes()[:4] == b"\x7fELF"
    assert len(found.commit) == 40


def test_an_explicit_path_may_be_a_link(tmp_path: Path) -> None:
    link = tmp_path / "envoy"
    link.symlink_to(find_binary().path)
    assert find_binary(link) == find_binary()


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "VERSION", "9.9.9")
    binary._asked.cache_clear()
    with pytest.raises(BinaryError, match=rf"is Envoy {VERSION}, but only 9\.9\.9 is supported"):
        find_binary()


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(BinaryError, match=r"no Envoy binary at .*/nowhere \(No such file"):
        find_binary(tmp_path / "nowhere")


def test_a_script_is_not_the_binary(tmp_path: Path) -> None:
    script = tmp_path / "envoy"
    script.write_text("#!/bin/sh\necho version: 0/1.40.0/Clean\n")
    script.chmod(0o755)
    with pytest.raises(BinaryError, match="is not an ELF program"):
        find_binary(script)


def test_a_program_that_is_not_envoy() -> None:
    true = shutil.which("true")
    assert true is not None
    with pytest.raises(BinaryError, match="does not answer like Envoy"):
        find_binary(Path(true))


def test_a_file_that_does_not_run(tmp_path: Path) -> None:
    broken = tmp_path / "envoy"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    broken.chmod(0o755)
    with pytest.raises(BinaryError, match="did not run"):
        find_binary(broken)


def test_a_replaced_file_is_asked_again(tmp_path: Path) -> None:
    copy = tmp_path / "envoy"
    os.link(find_binary().path, copy) if _same_device(tmp_path) else shutil.copy2(find_binary().path, copy)
    assert find_binary(copy).version == VERSION
    copy.unlink()
    copy.write_bytes(b"\x7fELF")
    copy.chmod(0o755)
    with pytest.raises(BinaryError):
        find_binary(copy)


def _same_device(directory: Path) -> bool:
    return find_binary().path.stat().st_dev == directory.stat().st_dev
