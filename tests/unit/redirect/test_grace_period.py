from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.redirect.grace_period import expedited


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    path = tmp_path / "rcu_expedited"
    path.write_text("0\n")
    return path


def mark_of(switch: Path) -> Path:
    return switch.with_name("mark")


def state(switch: Path) -> str:
    return switch.read_text().strip()


def test_it_is_on_meanwhile_and_off_after(switch: Path) -> None:
    with expedited(switch, mark_of(switch)):
        assert state(switch) == "1"
    assert state(switch) == "0"


def test_it_is_off_after_an_error(switch: Path) -> None:
    with pytest.raises(RuntimeError), expedited(switch, mark_of(switch)):
        raise RuntimeError
    assert state(switch) == "0"


def test_who_found_it_on_leaves_it_on(switch: Path) -> None:
    switch.write_text("1\n")
    with expedited(switch, mark_of(switch)):
        assert state(switch) == "1"
    assert state(switch) == "1"


def test_of_two_at_once_the_first_turns_it_off(switch: Path) -> None:
    with expedited(switch, mark_of(switch)):
        with expedited(switch, mark_of(switch)):
            assert state(switch) == "1"
        assert state(switch) == "1"
    assert state(switch) == "0"


def test_where_there_is_none_all_goes_on(tmp_path: Path) -> None:
    done = False
    with expedited(tmp_path / "none", tmp_path / "mark"):
        done = True
    assert done


def test_what_an_agent_that_was_killed_left_on_is_turned_off(switch: Path) -> None:
    switch.write_text("1\n")
    mark_of(switch).touch()
    with expedited(switch, mark_of(switch)):
        assert state(switch) == "1"
    assert state(switch) == "0"
    assert not mark_of(switch).exists()
