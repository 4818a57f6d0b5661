"""Group testing finds exactly the guilty, in few trials, and never tries the whole again."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from lockgate.agent.refusal.hunt import Hunt


def solve(hunt: Hunt[int], guilty: set[int], sound: bool = True) -> list[frozenset[int]]:
    """Answers truthfully; returns the trials."""
    trials = []
    while (trial := hunt.trial) is not None:
        trials.append(trial)
        bad = sorted(trial & guilty)
        if bad or not sound:
            hunt.refused(f"because of {bad[0]}" if bad else "anyway")
        else:
            hunt.accepted()
    return trials


@given(st.integers(1, 200), st.data())
def test_exactly_the_guilty_are_found(count: int, data: st.DataObject) -> None:
    guilty = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=5))
    first = data.draw(st.lists(st.integers(0, count - 1), max_size=3))
    hunt = Hunt(range(count), "the whole", first)
    trials = solve(hunt, guilty)
    assert set(hunt.guilty) == guilty
    assert not hunt.hopeless
    assert frozenset(range(count)) not in trials, "it was refused already"
    assert len(trials) <= 2 * len(guilty) * (math.ceil(math.log2(count)) + 1) + len(first) + 2


def test_each_has_the_words_of_its_own_refusal() -> None:
    hunt = Hunt(range(8), "the whole")
    solve(hunt, {2, 5})
    assert hunt.guilty == {2: "because of 2", 5: "because of 5"}


def test_a_single_suspect_is_blamed_when_the_rest_is_sound() -> None:
    hunt = Hunt([1], "the whole")
    assert solve(hunt, {1}) == [frozenset()]
    assert hunt.guilty == {1: "the whole"}


def test_nobody_is_blamed_when_the_rest_is_not_sound() -> None:
    for count in (1, 2, 100):
        hunt = Hunt(range(count), "the whole")
        trials = solve(hunt, set(), sound=False)
        assert hunt.hopeless
        assert hunt.guilty == {}
        assert len(trials) <= 2


def test_a_likely_one_costs_a_trial() -> None:
    hunt = Hunt(range(5000), "the whole", [4321])
    assert solve(hunt, {4321}) == [frozenset(range(5000)) - {4321}]
    assert hunt.guilty == {4321: "the whole"}


def test_two_that_do_not_go_together_cost_one_of_them() -> None:
    hunt = Hunt("abcd", "the whole")
    while (trial := hunt.trial) is not None:
        if {"a", "c"} <= trial:
            hunt.refused("a with c")
        else:
            hunt.accepted()
    assert list(hunt.guilty) == ["c"]


def test_without_suspects_there_is_nothing_to_find() -> None:
    assert Hunt[int]((), "the whole").trial is None
