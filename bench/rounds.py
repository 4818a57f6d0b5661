"""Rounds of a bench: every mode once at each concurrency, the order rotating from round to round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from lockgate.agent.playground import Pod

from .cpu import Stopwatch
from .figures import Cell, Metric
from .load import Load
from .mode import Mode

# client pod, URL, concurrency, whole seconds, threads
LoadOf: TypeAlias = Callable[[Pod, str, int, int, int], Load]


def rounds(
    modes: Sequence[Mode],
    load: LoadOf,
    concurrencies: Sequence[int],
    number_of_rounds: int,
    seconds: int,
    threads: int,
    say: Callable[[str], None],
    level: str = "c={}",
) -> list[Cell]:
    """Measures; `say` is told of each cell. `level` is how a concurrency (of an open loop: a rate) is written.

    Raises:
        BenchError: a load failed, or took another way than its mode claims.
    """
    for mode in modes:  # connection pools, caches, branch predictors
        load(mode.client, mode.url, max(concurrencies), 1, threads)
    cells = []
    total = number_of_rounds * len(concurrencies) * len(modes)
    for number in range(number_of_rounds):
        shift = number % len(modes)
        for concurrency in concurrencies:
            for mode in (*modes[shift:], *modes[:shift]):
                cell = _cell(mode, load, concurrency, number, seconds, threads)
                cells.append(cell)
                say(
                    f"[{len(cells)}/{total}] round {number + 1} {level.format(concurrency):<7} {mode.title:<16} "
                    f"{cell.value(Metric.RPS):>9,.0f} req/s  {cell.value(Metric.CPU):>6.1f} us CPU  "
                    f"p50 {cell.p50:>5.0f} us  p99 {cell.p99:>6.0f} us"
                )
    return cells


def _cell(mode: Mode, load: LoadOf, concurrency: int, number: int, seconds: int, threads: int) -> Cell:
    before = mode.counted()
    watch = Stopwatch(mode.namespaces)
    watch.start()
    seen = load(mode.client, mode.url, concurrency, seconds, threads)
    usage = watch.stop()
    # The last request of each connection or stream may be answered after the load stopped counting.
    mode.require_path(before, seen.requests, seen.requests + concurrency)
    return Cell.of(mode.key, concurrency, number, seen, usage)
