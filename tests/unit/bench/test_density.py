"""Memory of one Envoy against many: what is added up, what is counted once, and the aim."""

from __future__ import annotations

import json
import os

import pytest
from lockgate.bench.crowd import Footprint, footprint
from lockgate.bench.density_report import DensityReport, Size
from lockgate.bench.figures import Cell, Figures
from lockgate.bench.machine import Machine

_MACHINE = Machine("2026-01-01 00:00 UTC", "abc", 2, "CPU", 4.0, "6.18", "cubic", "Debian", "1.40.0", "4.1", "1", "12")


def _report(sidecar: float) -> DensityReport:
    cells = [Cell(key, 16, 0, rps, 1.0, 1.0, 2.0, 3.0, 0.5, 0.0, {}) for key, rps in (("a", 1000), ("b", 900))]
    sizes = [
        Size(number, key, Footprint(1, 20.0, 30.0), Footprint(1, 60.0, 10.0), Footprint(number, sidecar * number, 30.0))
        for number, key in ((1, "a"), (200, "b"))
    ]
    return DensityReport(_MACHINE, Figures(tuple(cells)), sizes, 1, 1, 2)


def test_own_memory_is_added_up_and_the_shared_file_counted_once() -> None:
    once, twice = footprint([os.getpid()]), footprint([os.getpid(), os.getpid()])
    assert once.own > 1 and once.program > 1
    assert twice.own == pytest.approx(2 * once.own, rel=0.05)
    assert twice.program == pytest.approx(once.program, rel=0.05)


@pytest.mark.parametrize(("sidecar", "says"), [(12.6, "1/51, reached"), (10.0, "1/41, **not reached**")])
def test_the_aim_is_judged_at_its_number_of_workloads(sidecar: float, says: str) -> None:
    assert says in _report(sidecar).markdown()


def test_requests_are_compared_to_the_smallest_node() -> None:
    lines = [" ".join(line.replace("|", " ").split()) for line in _report(10.0).markdown().splitlines()]
    assert any(line.startswith("200 0.90 (0.90-0.90) 1.11 (1.11-1.11)") for line in lines)
    assert [size["workloads"] for size in json.loads(json.dumps(_report(10.0).json()))["sizes"]] == [1, 200]
