"""Ratios within a round, their spread, and aims judged by the median."""

from __future__ import annotations

import pytest
from lockgate.bench.figures import Aim, Cell, Figures, Metric, Spread, outcomes


def cell(mode: str, round: int, rps: float, cpu: float = 1.0, **parts: float) -> Cell:
    """One second at c=16; `cpu` and `parts` in CPU seconds."""
    return Cell(mode, 16, round, int(rps), 1.0, 100.0, 200.0, 300.0, cpu, 0.25, parts)


FIGURES = Figures(
    (
        cell("fast", 0, 300, cpu=0.3, load=0.1, origin=0.1),
        cell("slow", 0, 100, cpu=0.4),
        cell("slow", 1, 200, cpu=0.8),  # the machine was twice as fast in this round
        cell("fast", 1, 800, cpu=1.6, load=0.4, origin=0.8),
        cell("fast", 2, 500, cpu=0.5, load=0.1, origin=0.4),  # no partner in its round
    )
)


def test_a_ratio_is_taken_within_each_round() -> None:
    assert FIGURES.ratio("fast", "slow", 16, Metric.RPS) == Spread(3.5, 3.0, 4.0)


def test_cpu_is_per_request() -> None:
    assert cell("fast", 0, 200, cpu=0.01).value(Metric.CPU) == pytest.approx(50.0)
    ratio = FIGURES.ratio("fast", "slow", 16, Metric.CPU)
    assert ratio is not None
    assert (ratio.low, ratio.high) == pytest.approx((0.25, 0.5))


def test_there_is_no_ratio_to_what_was_not_measured() -> None:
    assert FIGURES.ratio("fast", "absent", 16, Metric.RPS) is None
    assert FIGURES.ratio("fast", "slow", 1, Metric.RPS) is None


def test_parts_of_the_cpu_add_up_with_the_kernels_share() -> None:
    only = Figures((cell("fast", 0, 100, cpu=0.3, load=0.1, origin=0.05),))
    assert only.cpu_parts("fast", 16) == pytest.approx({"load": 1000.0, "origin": 500.0, "kernel": 1500.0})


def test_disturbance_is_in_cores() -> None:
    assert FIGURES.foreign_share() == Spread(0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("bound", "at_least", "reached"),
    [(3.5, True, True), (3.6, True, False), (3.5, False, True), (3.4, False, False)],
)
def test_an_aim_is_judged_by_the_median(bound: float, at_least: bool, reached: bool) -> None:
    (outcome,) = outcomes(FIGURES, [Aim("fast", "slow", Metric.RPS, bound, at_least)], [1, 16])
    assert outcome.concurrency == 16
    assert outcome.reached is reached
