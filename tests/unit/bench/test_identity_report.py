"""What the identity filter costs: differences within a round, the aim, and who else was on the machine."""

from __future__ import annotations

import json

import pytest
from lockgate.bench.identity_report import IdentityReport
from lockgate.bench.machine import Machine

_MACHINE = Machine("2026-01-01 00:00 UTC", "abc", 2, "CPU", 4.0, "6.18", "cubic", "Debian", "1.40.0", "4.1", "1", "12")


def _report(more: float, foreign: float = 0.0) -> IdentityReport:
    without = (20.0, 50.0, 21.0, 90.0)  # a slow round is slow for both
    return IdentityReport(_MACHINE, 1000, 500, without, tuple(each + more for each in without), foreign)


@pytest.mark.parametrize(("more", "says"), [(1.9, "reached"), (2.0, "**not reached**")])
def test_the_aim_is_judged_by_what_a_round_differs(more: float, says: str) -> None:
    report = _report(more)
    assert report.differences == pytest.approx([more] * 4)
    assert f"Aim: less than 2 us, {says}." in report.table()


def test_it_says_how_it_was_measured() -> None:
    written = _report(1.0).markdown()
    assert "`bench/identity --rounds 4 --connections 500 --addresses 1000`, 2026-01-01" in written
    assert "0.00 cores" in written and "busy" not in written
    assert json.loads(json.dumps(_report(1.0).json()))["reached"] is True


def test_a_busy_machine_is_told() -> None:
    report = _report(1.0, foreign=0.3)
    assert "busy" in report.warning() and report.warning() in report.markdown()
