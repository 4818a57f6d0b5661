"""The report says what was measured, against what, and which aims were missed."""

from __future__ import annotations

import json
from dataclasses import replace

from lockgate.bench.disturbance import DISTURBED
from lockgate.bench.figures import Aim, Cell, Figures, Metric, outcomes
from lockgate.bench.machine import Machine
from lockgate.bench.report import Report
from lockgate.bench.run_report import RunReport

_MACHINE = Machine(
    "2026-01-01 00:00 UTC", "abc", 2, "CPU", 4.0, "6.18", "cubic", "Debian", "1.40.0", "4.1", "1.0", "12"
)


def _report(foreign: float = 0.0) -> Report:
    cells = [
        Cell(mode, level, 0, rps, 1.0, 100.0, 200.0, 300.0, 0.5, foreign, {"load": 0.25})
        for level in (1, 16)
        for mode, rps in (("new", 1500 * level), ("old", 1000))
    ]
    figures = Figures(tuple(cells))
    aims = [Aim("new", "old", Metric.RPS, 2.0, at_least=True)]
    return Report(
        machine=_MACHINE,
        figures=figures,
        titles={"new": "new way", "old": "old way"},
        base="old",
        concurrencies=(1, 16),
        rounds=1,
        seconds=1,
        threads=2,
        aims=outcomes(figures, aims, (1, 16)),
    )


def test_the_tables_hold_ratios_and_each_aim_with_its_outcome() -> None:
    lines = [" ".join(line.replace("|", " ").split()) for line in _report().markdown().splitlines()]
    assert (
        "c=16 new way 24.00 (24.00-24.00) 0.04 (0.04-0.04) 1.00 (1.00-1.00) 1.00 (1.00-1.00) 1.00 (1.00-1.00)" in lines
    )
    assert "new way: RPS >= 2.00 of old way c=1 1.50 (1.50-1.50) **not reached**" in lines
    assert "new way: RPS >= 2.00 of old way c=16 24.00 (24.00-24.00) reached" in lines
    assert "c=16 old way 1,000/s 500 us 100 us 200 us 300 us" in lines


def test_the_data_keeps_every_cell() -> None:
    report = _report()
    data = json.loads(json.dumps(report.json()))
    assert [cell["requests"] for cell in data["cells"]] == [cell.requests for cell in report.figures.cells]
    assert [aim["reached"] for aim in data["aims"]] == [False, True]


def test_a_busy_machine_is_said_beside_the_figures() -> None:
    assert DISTURBED not in _report(foreign=0.01).markdown()
    assert DISTURBED in _report(foreign=0.5).markdown()


def test_reports_of_one_run_share_head_and_method() -> None:
    whole = RunReport("Both", (replace(_report(), title="Small"), replace(_report(foreign=0.5), title="Large")))
    text = whole.markdown()
    assert text.startswith("# Both\n")
    assert [text.count(part) for part in ("\n# Small\n", "\n# Large\n", "## Method", "## Disturbance")] == [1, 1, 1, 2]
    assert list(whole.json()) == ["Small", "Large"]
    assert whole.warning() == DISTURBED and not replace(whole, parts=whole.parts[:1]).warning()
