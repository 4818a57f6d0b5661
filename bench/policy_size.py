"""What the number of rules costs an Envoy: compiled to maps, and beside it listed one after the other.

Started by the script `bench/policy-size`, which installs what is missing. Exit status: 0 measured (whether or not the
aim is reached), 1 it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from lockgate.agent.playground import Playground
from lockgate.envoy.running.binary import find_binary

from . import command, load
from .cpu import Stopwatch
from .errors import CheckError
from .figures import Cell, Figures
from .machine import machine
from .mode import spawn
from .options import Amount, Options
from .probe import until
from .size_mode import (
    ORIGIN_PORT,
    CompiledHeaders,
    CompiledPaths,
    LinearHeaders,
    LinearPaths,
    NoPolicy,
    Place,
    SizeMode,
)
from .size_report import SizeReport
from .size_rules import CLIENT, SERVER
from .workplace import compiled_origin, positives, prefix, uninterrupted, workplace

MODES: tuple[type[SizeMode], ...] = (NoPolicy, CompiledPaths, CompiledHeaders, LinearPaths, LinearHeaders)
_CONNECTIONS = 16
_FIRST_PORT = 15100
_MANY = 5000  # rules
_WAIT = 60.0  # seconds for an Envoy to come up


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("policy-size", lambda: measure(options), options.output)


def measure(options: argparse.Namespace) -> SizeReport:
    """One size after the other; within a size all modes in turn."""
    envoy = find_binary()
    cells: list[Cell] = []
    memory: dict[str, float] = {}
    with workplace() as directory:
        origin = compiled_origin(directory)
        for rules in options.sizes:
            place_directory = directory / str(rules)
            place_directory.mkdir()
            with _playground(f"{prefix()}_{rules}") as playground:
                place = Place(place_directory, envoy.path, playground.pod(CLIENT), playground.pod(SERVER))
                spawn(place.server, [origin, str(ORIGIN_PORT), str(os.sysconf("SC_NPROCESSORS_ONLN"))])
                modes = [kind(place, rules, _FIRST_PORT + number) for number, kind in enumerate(MODES)]
                for mode in modes:
                    mode.start()
                for mode in modes:
                    until(lambda mode=mode: _passes(mode), _WAIT, f"{mode.key} is checked")  # type: ignore[misc]
                    mode.check()
                namespaces = [playground.node.path, *(pod.path for pod in playground.pods)]
                cells += _rounds(modes, namespaces, options.rounds, options.seconds)
                memory |= {mode.key: mode.memory for mode in modes}
    return SizeReport(
        machine(envoy), Figures(tuple(cells)), options.sizes, options.rounds, options.seconds, _CONNECTIONS, memory
    )


@contextmanager
def _playground(name: str) -> Iterator[Playground]:
    playground = Playground(name)
    try:
        yield playground
    finally:
        with uninterrupted():
            playground.close()


def _passes(mode: SizeMode) -> bool:
    with suppress(CheckError):
        mode.check()
        return True
    return False


def _rounds(modes: Sequence[SizeMode], namespaces: list[Path], rounds: int, seconds: int) -> list[Cell]:
    for mode in modes:  # connection pools, caches, branch predictors
        _load(mode, 2)
    cells = []
    for number in range(rounds):
        shift = number % len(modes)
        for mode in (*modes[shift:], *modes[:shift]):
            watch = Stopwatch(namespaces)
            watch.start()
            seen = _load(mode, seconds)
            usage = watch.stop()
            cells.append(Cell.of(mode.key, _CONNECTIONS, number, seen, usage))
            _say(f"round {number + 1} {mode.key:<20} {seen.requests / seen.seconds:>9,.0f} req/s")
    return cells


def _load(mode: SizeMode, seconds: int) -> load.Load:
    """Lists of many rules get longer, so that even there enough requests are answered."""
    if mode.slow and mode.rules >= _MANY:
        seconds *= 4
    return load.run(mode.place.client, mode.url, _CONNECTIONS, seconds, 1, mode.headers)


def _say(text: str) -> None:
    print(f"policy-size: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    rounds = Amount("rounds", "rounds to measure", 12, 2)
    seconds = Amount("seconds", "seconds for each mode", 2, 1)
    options = Options("policy-size", __doc__, rounds, seconds)
    options.parser.add_argument(
        "--sizes", type=positives, help="numbers of rules (10,100,1000,10000; with --quick 10,1000)"
    )
    given = options.parse(argv, lambda given: given.sizes is None)
    given.sizes = given.sizes or ((10, 1000) if given.quick else (10, 100, 1000, 10_000))
    return given


if __name__ == "__main__":
    sys.exit(main())
