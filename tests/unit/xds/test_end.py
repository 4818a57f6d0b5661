"""The text of an end, and that its beginning and its end tell what they are looked up for."""

from __future__ import annotations

import re2
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import Direction
from lockgate.xds.compile.end import ELSEWHERE, OWN_END, PEER_END, any_of_these, end_text, wherever

identities = st.integers(0, 2**32 - 1)


def test_an_end() -> None:
    assert end_text(70_103, here=True) == "23:70103:in"
    assert end_text(70_103, here=False) == "23:70103:out"
    assert wherever(70_103) == "23:70103:"


def test_it_fits_where_no_memory_is_taken() -> None:
    """Envoy's strings (libc++) keep 22 bytes in place; keys are strings too."""
    assert max(map(len, (end_text(2**32 - 1, here=False), *OWN_END.values()))) <= 22


@given(identities, identities, st.booleans())
def test_a_beginning_tells_who_it_is_and_the_end_where(one: int, other: int, here: bool) -> None:
    end = end_text(one, here=here)
    assert end.startswith(wherever(other)) is (one == other)
    assert end.endswith(ELSEWHERE) is not here


@given(st.lists(identities, min_size=1, max_size=5), identities, st.booleans())
def test_an_expression_of_several_matches_these_and_no_other(some: list[int], one: int, here: bool) -> None:
    regex = re2.compile(any_of_these(some))
    assert all(regex.fullmatch(end_text(each, here=here)) for each in some)
    assert bool(regex.fullmatch(end_text(one, here=here))) is (one in some)


def test_an_expression_of_many_is_small() -> None:
    assert re2.compile(any_of_these(range(70_000, 80_000))).programsize < 3000


def test_each_direction_judges_its_own_end() -> None:
    assert (OWN_END[Direction.EGRESS], OWN_END[Direction.INGRESS]) == ("lockgate.source", "lockgate.destination")
    assert all(PEER_END[each] != OWN_END[each] for each in Direction)
