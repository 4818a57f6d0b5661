"""What wrk prints becomes a Load, or an error that says why it cannot be used."""

from __future__ import annotations

import pytest
from lockgate.bench.errors import LoadError
from lockgate.bench.load import Load, parse

_LINE = '{{"requests": {0}, "microseconds": 2000000, "p50": 80.0, "p99": 150.5, "p999": 300.0, "failed": {1}}}'


def test_the_last_line_is_the_result() -> None:
    output = "Running 2s test @ http://10.200.0.4:80/\n  1 threads\n\n" + _LINE.format(1000, 0) + "\n"
    assert parse("wrk", output, "http://x/") == Load(1000, 2.0, 80.0, 150.5, 300.0)


@pytest.mark.parametrize(
    ("output", "says"),
    [
        (_LINE.format(1000, 3), "3 of 1000 requests to http://x/ failed"),
        (_LINE.format(0, 0), "no request to http://x/ was answered"),
        ("unable to connect to x:80 Connection refused", "unable to connect"),
        ("", "wrk printed no result"),
    ],
)
def test_a_bad_run_is_refused(output: str, says: str) -> None:
    with pytest.raises(LoadError, match=says):
        parse("wrk", output, "http://x/")
