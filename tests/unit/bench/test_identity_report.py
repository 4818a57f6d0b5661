"""What the identity filter costs: differences within a round, of each Envoy, the aim, and who else was there."""

from __future__ import annotations

import json

import pytest
from lockgate.bench.identity_report import IdentityReport, OneEnvoy
from lockgate.bench.machine import Machine

_MACHINE = Machine("2026-01-01 00:00 UTC", "abc", 2, "CPU", 4.0, "6.18", "cubic", "Debian", "1.40.0", "4.1", "1", "12")


def _report(more: float, foreign: float = 0.0) -> IdentityReport:
    without = (20.0, 50.0, 21.0, 90.0)  # a slow round is slow for all
    envoys = [
        OneEnvoy.of(without, tuple(each + luck for each in without), tuple(each + more + luck for each in without))
        for luck in (-1.0, 0.0, 0.0, 1.0)
    ]
    return IdentityReport(_MACHINE, 1000, 50, 4, envoys, foreign)


@pytest.mark.parametrize(("more", "says"), [(1.9, "reached"), (2.0, "**not reached**")])
def test_the_aim_is_judged_by_what_most_envoys_say(more: float, says: str) -> None:
    report = _report(more)
    assert [each.more for each in report.envoys] == pytest.approx([more - 1, more, more, more + 1])
    assert [each.alike for each in report.envoys] == pytest.approx([-1, 0, 0, 1])
    assert f"Aim: less than 2 us, {says}." in report.table()


def test_it_says_how_it_was_measured() -> None:
    written = _report(1.0).markdown()
    assert "`bench/identity --envoys 4 --rounds 4 --connections 50 --addresses 1000`, 2026-01-01" in written
    assert "0.00 cores" in written and "busy" not in written
    assert json.loads(json.dumps(_report(1.0).json()))["reached"] is True


def test_a_busy_machine_is_told() -> None:
    report = _report(1.0, foreign=0.3)
    assert "busy" in report.warning() and report.warning() in report.markdown()
