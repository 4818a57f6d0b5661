from __future__ import annotations

import pytest
from lockgate.bench.errors import LoadError
from lockgate.bench.grpc_load import parse

OUTPUT = """\
finished in 1.50s, 7200.00 req/s, 338.01KB/s
requests: 7200 total, 7216 started, 7200 done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: {succeeded} 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = [f"1700000000\t200\t{microseconds}" for microseconds in range(1, 102)]


def test_a_run() -> None:
    load = parse(OUTPUT.format(succeeded=7200, failed=0), [*LOG, "1700000000\t-1\t9"], "u")
    assert (load.requests, load.seconds, load.p50, load.p99) == (7200, 1.5, 51.0, 100.0)
    short = parse(OUTPUT.format(succeeded=7200, failed=0).replace("1.50s", "900.00ms"), LOG, "u")
    assert short.seconds == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("output", "log", "why"),
    [
        (OUTPUT.format(succeeded=7199, failed=1), LOG, "1 of 7200 calls of u failed"),
        (OUTPUT.format(succeeded=7199, failed=0), LOG, "0 of 7200 calls of u failed"),
        (OUTPUT.format(succeeded=7200, failed=0), [], "no call of u was answered"),
        ("unable to connect", LOG, "h2load printed no result for u: unable to connect"),
    ],
)
def test_a_run_that_is_worth_nothing(output: str, log: list[str], why: str) -> None:
    with pytest.raises(LoadError, match=why):
        parse(output, log, "u")
