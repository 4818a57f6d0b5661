"""When something is done about an Envoy that does not answer to what it is told."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.agent.force.deafness import Cure, Deafness
from lockgate.xds import Hearing

LIMIT = 10.0
FINE, SILENT, AWAY = Hearing(True, False, 1), Hearing(True, True, 1), Hearing(False, True, 0)


def cures(looks: Iterable[Hearing | None], every: float = 1.0) -> list[tuple[int, Cure]]:
    """At which of the looks, a second apart, what is done."""
    deafness = Deafness(LIMIT, longest=2.0)
    found = [(at, deafness.look(at * every, hearing)) for at, hearing in enumerate(looks)]
    return [(at, cure) for at, cure in found if cure is not None]


def test_first_the_stream_then_envoy_then_a_pause_that_grows() -> None:
    assert cures([SILENT] * 200) == [
        (10, Cure.END_STREAMS),
        (20, Cure.REPLACE),
        (40, Cure.END_STREAMS),
        (50, Cure.REPLACE),
        (90, Cure.END_STREAMS),
        (100, Cure.REPLACE),
        (180, Cure.END_STREAMS),
        (190, Cure.REPLACE),
    ]


def test_one_without_a_stream_is_replaced() -> None:
    assert cures([AWAY] * 15) == [(10, Cure.REPLACE)]
    assert cures([*[SILENT] * 11, *[AWAY] * 11]) == [(10, Cure.END_STREAMS), (21, Cure.REPLACE)]


@pytest.mark.parametrize(
    "looks",
    [
        [FINE] * 50,
        [*[SILENT] * 10, FINE] * 5,
        [Hearing(True, True, words) for words in range(50)],  # it says something, as one that is slow
        [None] * 50,  # nobody is there, or it does not answer to anything
        [*[SILENT] * 10, None] * 5,
    ],
)
def test_others_are_let_be(looks: list[Hearing | None]) -> None:
    assert not cures(looks)


def test_one_that_hears_again_has_a_stream_to_lose_first() -> None:
    assert cures([*[SILENT] * 15, FINE, *[SILENT] * 12]) == [(10, Cure.END_STREAMS), (26, Cure.END_STREAMS)]


def test_who_looks_late_holds_little_of_it_against_envoy() -> None:
    assert cures([SILENT] * 5, every=100.0) == []
    assert cures([SILENT] * 6, every=100.0) == [(5, Cure.END_STREAMS)]


@given(st.lists(st.sampled_from([FINE, SILENT, AWAY, None, Hearing(True, True, 2)]), max_size=300))
def test_never_twice_in_a_row_without_a_pause(looks: list[Hearing | None]) -> None:
    done = cures(looks)
    for (before, first), (after, _) in pairwise(done):
        assert after - before >= (2 * LIMIT if first is Cure.REPLACE else LIMIT)
