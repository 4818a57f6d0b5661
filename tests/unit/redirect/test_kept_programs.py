"""Files that go into the kernel: who may have written them, what they were made from, and how many there are."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from lockgate.agent.settings import DEFAULT_CACHE_DIR
from lockgate.redirect.kernel import kept_programs
from lockgate.redirect.kernel.compiled import Compiled, Maker, ProgramSpec
from lockgate.redirect.kernel.kept_programs import KeptPrograms

SOURCE = "published.c"


def made(compiler: Path) -> Compiled:
    found = compiler.stat()
    return Compiled(
        (), {"program": ProgramSpec(bytes(8))}, "GPL", (Maker(str(compiler), found.st_size, found.st_mtime_ns),)
    )


@pytest.fixture
def compiler(tmp_path: Path) -> Path:
    path = tmp_path / "libbcc.so.0"
    path.write_text("a compiler")
    return path


@pytest.fixture
def kept(tmp_path: Path, compiler: Path) -> KeptPrograms:
    kept = KeptPrograms(tmp_path / "cache", SOURCE)
    assert kept.read() is None
    kept.write(made(compiler))
    return kept


def test_what_was_kept_is_found_again(kept: KeptPrograms, compiler: Path) -> None:
    assert kept.read() == made(compiler)
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]
    assert kept.path.parent.stat().st_mode & 0o777 == 0o700
    assert kept.path.stat().st_mode & 0o777 == 0o600


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _folder_link(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("meddle", "words"),
    [
        (lambda path: os.truncate(path, 100), "it is damaged"),
        (lambda path: os.truncate(path, 0), "it holds something else"),
        (lambda path: path.write_text("#!/bin/sh\n"), "it holds something else"),
        (lambda path: path.chmod(0o620), "it may be written by others than root (mode 620)"),
        (lambda path: path.chmod(0o602), "it may be written by others than root"),
        (lambda path: os.chown(path, 65534, 0), "it belongs to user 65534 and not to root"),
        (lambda path: path.parent.chmod(0o777), "its folder may be written by others than root"),
        (lambda path: os.chown(path.parent, 65534, 0), "its folder belongs to user 65534"),
        (_link, "Too many levels of symbolic links"),
        (_folder_link, "Not a directory"),
        (_fifo, "it is no file"),
        (_folder, "it is no file"),
    ],
)
def test_what_others_may_have_written_is_not_believed(
    kept: KeptPrograms, meddle: Callable[[Path], None], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    meddle(kept.path)
    with caplog.at_level(logging.WARNING):
        assert kept.read() is None
    (told,) = caplog.messages
    assert words in told
    assert str(kept.path) in told
    assert told.endswith("the eBPF programs are compiled")


def test_another_compiler_makes_others(kept: KeptPrograms, compiler: Path) -> None:
    compiler.write_text("another compiler")
    assert kept.read() is None
    kept.write(made(compiler))
    assert kept.read() == made(compiler)
    compiler.unlink()
    assert kept.read() is None


def test_another_source_or_machine_or_kernel_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def name() -> str:
        return KeptPrograms(tmp_path, SOURCE).path.name

    before = name()
    assert before == name()
    found = {before}
    with monkeypatch.context() as patch:
        patch.setattr(kept_programs, "read_source", lambda source: f"/* {source} */")
        found.add(name())
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "pdp11")
        found.add(name())
    with monkeypatch.context() as patch:
        patch.setattr(platform, "release", lambda: "9.9.9")
        found.add(name())
    assert len(found) == 4


def test_files_that_nobody_uses_any_more_go(kept: KeptPrograms, compiler: Path) -> None:
    folder = kept.path.parent
    older = [folder / f"published-{number:016x}" for number in range(12)]
    for age, path in enumerate(older, start=1):
        path.write_bytes(b"of another version")
        os.utime(path, (1_000_000_000 - age, 1_000_000_000 - age))
    others = folder / "lockgate-0123456789abcdef"
    abandoned, unfinished = folder / ".published-1.1", folder / ".published-2.2"
    for path in (others, abandoned, unfinished):
        path.write_bytes(b"")
    os.utime(abandoned, (1_000_000_000, 1_000_000_000))
    kept.write(made(compiler))
    assert {*folder.iterdir()} == {kept.path, *older[:7], others, unfinished}


def test_a_file_that_is_used_stays(kept: KeptPrograms, compiler: Path) -> None:
    os.utime(kept.path, (1, 1))
    assert kept.read() == made(compiler)
    assert kept.path.stat().st_mtime > 1


def test_a_failed_attempt_leaves_what_was_there(
    kept: KeptPrograms, compiler: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(Path, "replace", full)
        kept.write(made(compiler))
    assert [*kept.path.parent.iterdir()] == [kept.path]
    assert kept.read() == made(compiler)


def test_the_agent_has_the_same_folder_in_mind() -> None:
    assert DEFAULT_CACHE_DIR == kept_programs.DEFAULT_CACHE_DIR
