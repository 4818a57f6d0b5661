"""The back-off between starts of Envoy."""

from __future__ import annotations

import pytest
from lockgate.envoy.running.backoff import Backoff

SHORT, LONG = 0.2, 60.0


@pytest.mark.parametrize(
    ("runs", "delays"),
    [
        ([SHORT], [0.1]),
        ([SHORT] * 5, [0.1, 0.2, 0.4, 0.8, 1.6]),
        ([SHORT] * 8, [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]),
        ([LONG, LONG, LONG], [0.1, 0.1, 0.1]),
        ([SHORT, SHORT, SHORT, LONG, SHORT], [0.1, 0.2, 0.4, 0.1, 0.2]),
        ([9.999, 10.0, 10.0], [0.1, 0.1, 0.1]),
        ([10.0, 9.999], [0.1, 0.2]),
    ],
)
def test_delays(runs: list[float], delays: list[float]) -> None:
    backoff = Backoff(first=0.1, factor=2.0, limit=2.0, healthy_after=10.0)
    assert [backoff.exited(run) for run in runs] == pytest.approx(delays)


def test_a_very_long_loop_stays_at_the_limit() -> None:
    backoff = Backoff()
    assert {backoff.exited(0.0) for _ in range(5000)} >= {0.05, 30.0}
    assert backoff.exited(0.0) == 30.0


def test_defaults_restart_at_once_and_never_wait_longer_than_half_a_minute() -> None:
    assert Backoff().exited(0.0) <= 0.1
    assert Backoff().limit == 30.0


@pytest.mark.parametrize(("first", "factor", "limit"), [(0.0, 2.0, 1.0), (1.0, 0.5, 2.0), (2.0, 2.0, 1.0)])
def test_impossible_settings_are_refused(first: float, factor: float, limit: float) -> None:
    with pytest.raises(ValueError, match="back-off needs"):
        Backoff(first=first, factor=factor, limit=limit)
