"""The table holds exactly the weights, and has one slot for each choice."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from lockgate.redirect.alias import MOST, WHOLE, alias_table


def chances(weights: dict[str, int]) -> dict[str, Fraction]:
    table = alias_table(weights)
    found: Counter[str] = Counter()
    for slot in table:
        found[slot.own] += slot.share
        found[slot.other] += WHOLE - slot.share
    return {choice: Fraction(units, WHOLE * len(table)) for choice, units in found.items()}


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10_000), max_size=40))
def test_every_choice_has_its_share(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    served = {choice for choice, weight in weights.items() if weight}
    table = alias_table(weights)
    assert len(table) == len(served)
    assert all(0 <= slot.share <= MOST for slot in table)
    found = chances(weights)
    assert found.keys() == served
    for choice, chance in found.items():
        assert abs(chance - Fraction(weights[choice], total)) <= Fraction(len(table) + 1, WHOLE)


def test_nobody_to_choose_from() -> None:
    assert list(alias_table({})) == list(alias_table({"a": 0})) == []
