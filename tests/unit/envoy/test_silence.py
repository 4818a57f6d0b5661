"""What is held against a thread: by table, and for every history in which it could not have done better."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.envoy.running.silence import Silence, ThreadLook

LONGEST = 6.0
ASLEEP = ThreadLook("S", 10, 10, 5.0, 5.0, 5.0)
RUNS, STOPPED, WATCHED, DISK = (ASLEEP._replace(state=state) for state in "RTtD")


def after(looks: Iterable[tuple[float, ThreadLook | None, bool | None]]) -> float:
    silence = Silence(LONGEST)
    for now, seen, answers in looks:
        silence.look(now, seen, answers)
    return silence.seconds


@pytest.mark.parametrize(
    ("then", "answers", "seconds"),
    [
        (ASLEEP, None, 3.0),
        (STOPPED, None, 3.0),
        (ASLEEP._replace(sleeps=11), None, 0.0),
        (ASLEEP._replace(calls=11), None, 0.0),
        (RUNS._replace(calls=11), None, 0.0),
        (RUNS, None, 0.0),  # it wants to run and is not let
        (RUNS._replace(ran=7.0), None, 2.0),  # it spins, as far as it is let
        (RUNS._replace(ran=7.0, stolen=6.5), None, 0.5),
        (RUNS._replace(ran=7.0, stolen=1.0), None, 2.0),  # it is on another CPU now
        (RUNS._replace(ran=50.0), None, 3.0),
        (ASLEEP._replace(waited=7.0), None, 1.0),
        (WATCHED, None, 0.0),
        (DISK, None, 0.0),
        (None, None, 0.0),
        (ASLEEP._replace(sleeps=11), False, 3.0),  # it does something, and does not answer
        (RUNS._replace(calls=11), False, 0.0),
        (STOPPED, True, 0.0),
    ],
)
def test_one_look_after_another(then: ThreadLook | None, answers: bool | None, seconds: float) -> None:
    assert after([(100.0, ASLEEP, None), (103.0, then, answers)]) == pytest.approx(seconds)


def test_it_adds_up_until_the_thread_comes_round() -> None:
    looks = [(3.0 * n, STOPPED, None) for n in range(11)]
    assert after(looks) == 30.0
    assert after([*looks, (33.0, ASLEEP._replace(sleeps=11), None)]) == 0.0


def test_who_looks_late_was_not_there_himself() -> None:
    assert after([(0.0, STOPPED, None), (3600.0, STOPPED, None)]) == LONGEST


def test_what_nobody_saw_counts_for_nothing() -> None:
    assert after([(0.0, STOPPED, None), (3.0, None, None), (6.0, STOPPED, None)]) == 0.0


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0.1, 100.0), st.booleans(), st.floats(0.0, 1.0)), max_size=30))
def test_one_that_is_starved_is_never_silent(history: list[tuple[float, bool, float]]) -> None:
    """Each time it waits for a CPU all the while, gets nothing of it, or only what the hypervisor has taken; or it has
    had its turn, late."""
    silence, now, seen = Silence(LONGEST), 0.0, RUNS
    for seconds, comes_round, stolen in history:
        now += seconds
        stolen *= seconds
        seen = seen._replace(ran=seen.ran + stolen, stolen=seen.stolen + stolen, waited=seen.waited + seconds - stolen)
        if comes_round:
            seen = seen._replace(sleeps=seen.sleeps + 1)
        silence.look(now, seen)
        assert silence.seconds == pytest.approx(0.0)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.floats(0.1, LONGEST), st.sampled_from("ST")), min_size=1, max_size=30))
def test_one_that_is_stopped_or_stuck_is_silent_all_the_time(history: list[tuple[float, str]]) -> None:
    silence, now = Silence(LONGEST), 0.0
    silence.look(now, ASLEEP)
    for seconds, state in history:
        now += seconds
        silence.look(now, ASLEEP._replace(state=state))
        assert silence.seconds == pytest.approx(now)
