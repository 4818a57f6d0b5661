"""Policies that change at random under full load, for a short while; bench/route-change does it for long."""

from __future__ import annotations

import os
import random
import signal

from lockgate.bench.churn_node import ChurnNode
from lockgate.bench.route_change import measure


def test_what_every_version_allows_never_fails_and_what_none_allows_never_passes() -> None:
    seed = random.randrange(1, 1 << 31)
    report = measure(20, seed)
    tally = report.tally
    assert (tally.failed, tally.passed, tally.broken) == (0, 0, 0), (seed, tally.wrong)
    assert tally.allowed > 500 and tally.denied > 500 and tally.either > 0
    assert all(report.kinds.values()) and report.versions > 20


def test_a_failure_would_be_counted() -> None:
    """Envoy dies in the middle of it."""
    changes: list[int] = []

    def kill_once(node: ChurnNode) -> None:
        status = node.status()
        assert status is not None
        changes.append(int(status["envoy"]["pid"]))
        if len(changes) == 3:
            os.kill(changes[-1], signal.SIGKILL)

    tally = measure(5, 1, kill_once).tally
    assert tally.failed > 0
    assert tally.passed == 0, "a dead Envoy lets nothing through"
