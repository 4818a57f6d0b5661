"""CPU seconds are charged to those who spent them between two readings."""

from __future__ import annotations

from lockgate.bench.cpu import Process, split


def test_seconds_go_to_the_path_by_name_and_to_others_together() -> None:
    before = {10: Process("envoy", True, 1.0), 11: Process("envoy", True, 2.0), 20: Process("make", False, 5.0)}
    after = {10: Process("envoy", True, 1.5), 11: Process("envoy", True, 2.25), 20: Process("make", False, 6.0)}
    assert split(before, after) == {"envoy": 0.75, "": 1.0}


def test_a_new_process_is_charged_from_its_start() -> None:
    assert split({}, {12: Process("origin", True, 0.5)}) == {"origin": 0.5, "": 0.0}


def test_a_reused_pid_is_a_new_process() -> None:
    before = {12: Process("envoy", True, 9.0)}
    assert split(before, {12: Process("origin", True, 0.5)}) == {"origin": 0.5, "": 0.0}


def test_what_an_ended_process_used_is_found_with_its_parent() -> None:
    before = {1: Process("sh", False, 1.0, reaped=4.0), 12: Process("cc", False, 9.0)}
    after = {1: Process("sh", False, 1.0, reaped=15.0)}
    assert split(before, after) == {"": 2.0}  # cc went from 9 to 11 seconds and ended
