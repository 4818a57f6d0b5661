"""When files are looked at that something happened to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.store.pending import GATHER, LONGEST, SETTLE, Look, Pending

FILE, OTHER = "/p/a.yaml", "/p/b.yaml"


def both(*files: str) -> Look:
    return Look(frozenset(files))


@pytest.mark.parametrize(
    ("told", "looks"),
    [
        pytest.param([], [], id="nothing"),
        pytest.param([(0.0, FILE, True)], [(GATHER, both(FILE))], id="written"),
        pytest.param([(0.0, FILE, False)], [(SETTLE, both(FILE))], id="made or gone"),
        pytest.param([(0.0, None, False)], [(SETTLE, Look(everything=True))], id="a folder"),
        pytest.param([(0.0, FILE, False), (0.01, FILE, True)], [(0.01 + GATHER, both(FILE))], id="gone and back"),
        pytest.param([(0.0, FILE, True), (0.001, FILE, False)], [(0.001 + SETTLE, both(FILE))], id="written and gone"),
        pytest.param([(0.0, FILE, True), (0.002, OTHER, True)], [(GATHER, both(FILE, OTHER))], id="two together"),
        pytest.param(
            [(0.0, FILE, False), (0.001, OTHER, True)],
            [(0.001 + GATHER, both(OTHER)), (SETTLE, both(FILE))],
            id="one waits, the other need not",
        ),
        pytest.param(
            [(0.02 * number, FILE, False) for number in range(6)] + [(0.11, FILE, False)],
            [(LONGEST, both(FILE))],
            id="what never comes to rest",
        ),
    ],
)
def test_looks(told: list[tuple[float, str | None, bool]], looks: list[tuple[float, Look]]) -> None:
    pending = Pending()
    found: list[tuple[float, Look]] = []

    def pass_until(end: float) -> None:
        while (due := pending.due) is not None and due <= end:
            look = pending.take(due)
            assert look is not None
            found.append((due, look))

    for now, file, whole in told:
        pass_until(now)
        pending.tell(file, now, whole=whole)
    pass_until(float("inf"))
    assert [look for _, look in found] == [look for _, look in looks]
    assert [due for due, _ in found] == pytest.approx([due for due, _ in looks])


@given(
    st.lists(
        st.tuples(st.floats(0, 0.05), st.sampled_from([FILE, OTHER, None]), st.booleans()), min_size=1, max_size=20
    )
)
def test_all_that_was_told_is_looked_at_in_time(told: list[tuple[float, str | None, bool]]) -> None:
    pending = Pending()
    now = 0.0
    waiting: dict[str | None, float] = {}
    for pause, file, whole in told:
        now += pause
        pending.tell(file, now, whole=whole)
        waiting.setdefault(file, now)
        if (look := pending.take(now)) is not None:
            for seen in (*look.files, *([None] if look.everything else [])):
                waiting.pop(seen)
        assert pending.due is not None or not waiting
    while (due := pending.due) is not None:
        look = pending.take(due)
        assert look is not None
        for seen in (*look.files, *([None] if look.everything else [])):
            assert due <= waiting.pop(seen) + LONGEST + 1e-9
    assert not waiting
