"""Reading a growing and rotated log, line by line, without losing one."""

from __future__ import annotations

from pathlib import Path

from lockgate.agent.inspection.log_tail import LogTail


def test_the_last_lines_then_those_that_come(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthree\nha")
    tail = LogTail(path)
    assert tail.last(2) == [b"two", b"three"]
    assert tail.more() == []
    with path.open("ab") as log:
        log.write(b"lf\nfive\n")
    assert tail.more() == [b"half", b"five"]
    tail.close()


def test_a_log_that_is_not_there_yet(tmp_path: Path) -> None:
    tail = LogTail(tmp_path / "log")
    assert (tail.last(5), tail.more()) == ([], [])
    (tmp_path / "log").write_bytes(b"one\n")
    assert tail.more() == [b"one"]
    tail.close()


def test_rotation_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    tail = LogTail(path)
    assert tail.last(5) == [b"one"]
    old = path.rename(tmp_path / "log.1")
    with old.open("ab", buffering=0) as log:
        log.write(b"two\n")
        assert tail.more() == [b"two"], "Envoy writes there until it is told"
        log.write(b"three\n")
    path.write_bytes(b"four\n")
    assert tail.more() == [b"three", b"four"]
    tail.close()
