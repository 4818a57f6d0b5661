"""How a request is judged while policies change."""

from __future__ import annotations

from itertools import islice

import pytest
from lockgate.bench.route_versions import ALWAYS, NEVER, Changes, Kind, Request, Tally, Timeline, policy
from lockgate.policies import parse_policies

A, B = 5, 6


def timeline() -> Timeline:
    """Version 0 allows A, 1 nothing (written at 10, seen at 11, so that 0 is over at 12), 2 A and B (written at 20)."""
    made = Timeline(grace=1.0)
    made.add(0.0, frozenset({A}))
    made.add(10.0, frozenset())
    made.seen(1, 11.0)
    made.add(20.0, frozenset({A, B}))
    return made


@pytest.mark.parametrize(
    ("path", "began", "ended", "status", "expected"),
    [
        (A, 1, 2, 200, {"allowed": 1}),
        (A, 1, 2, 403, {"allowed": 1, "failed": 1}),
        (A, 1, 2, 0, {"allowed": 1, "failed": 1}),
        (A, 9, 10.5, 403, {"either": 1}),  # written meanwhile
        (A, 11.5, 11.9, 200, {"either": 1}),  # a worker may be behind
        (A, 11.5, 11.9, 503, {"either": 1, "broken": 1}),
        (A, 12.0, 13, 200, {"denied": 1, "passed": 1}),
        (A, 12.0, 13, 403, {"denied": 1}),
        (A, 12.0, 13, 0, {"denied": 1, "broken": 1}),
        (B, 9, 13, 403, {"denied": 1}),
        (B, 9, 21, 200, {"either": 1}),
        (A, 30, 31, 403, {"either": 1}),  # the last was never seen
    ],
)
def test_requests(path: int, began: float, ended: float, status: int, expected: dict[str, int]) -> None:
    tally = Tally()
    timeline().judge(Request(path, began, ended, status), tally)
    counted = {name: getattr(tally, name) for name in ("allowed", "denied", "either", "failed", "passed", "broken")}
    assert {name: count for name, count in counted.items() if count} == expected
    assert bool(tally.wrong) == bool(expected.keys() & {"failed", "passed", "broken"})


def test_changes_are_policies_that_keep_two_paths_as_they_are() -> None:
    changes = Changes(7)
    kinds = set()
    for number, burst in enumerate(islice(changes.bursts(), 200)):
        kinds |= {write.kind for write in burst}
        for write in burst:
            if not write.other:
                parsed = parse_policies(policy(write.file, write.allowed, number).encode(), f"{write.file}.yaml")
                assert parsed.problems == () and len(parsed.policies) == 1
        union = frozenset[int]().union(*changes.files.values())
        assert ALWAYS in union and NEVER not in union
    assert kinds == set(Kind)


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (list(islice(Changes(3).bursts(), 50)) for _ in range(2))
    assert first == second
