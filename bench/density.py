"""What more workloads on a node cost: memory of the one Envoy against a sidecar each, and requests through it.

Started by the script `bench/density`, which installs what is missing. Exit status: 0 measured (whether or not the aim
is reached), 1 it could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from lockgate.envoy.running.binary import find_binary

from . import command, load
from .crowd import Crowd, Sidecars
from .density_report import DensityReport, Size
from .figures import Figures
from .machine import machine
from .mode import Ground
from .options import Amount, Options
from .rounds import rounds
from .standing import standing
from .workplace import compiled_origin, positives, prefix, workplace

CONCURRENCY = 16
WORKLOADS = (1, 50, 200)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("density", lambda: measure(options), options.output, DensityReport.warning)


def measure(options: argparse.Namespace) -> DensityReport:
    """Bring all sizes up side by side, load them in turn, read the memory, then start the sidecars."""
    envoy = find_binary()
    threads = os.sysconf("SC_NPROCESSORS_ONLN")
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        ground = Ground(prefix(), directory, compiled_origin(directory), envoy.path, threads)
        modes = [Crowd(ground, number) for number in options.workloads]
        stack.enter_context(standing(modes, _say))
        cells = rounds(modes, load.run, [CONCURRENCY], options.rounds, options.seconds, threads, _say)
        shared = [mode.memory() for mode in modes]
        largest = modes[-1]
        sidecars = Sidecars(ground, largest.client, largest.directory)
        sizes, running = [], 0
        for mode, (one, agent) in zip(modes, shared, strict=True):
            _say(f"{mode.workloads} sidecars: starting")
            sidecars.start(largest.policed[running : mode.workloads])
            running = mode.workloads
            sizes.append(Size(mode.workloads, mode.key, one, agent, sidecars.memory()))
    return DensityReport(machine(envoy), Figures(tuple(cells)), tuple(sizes), options.rounds, options.seconds, threads)


def _say(text: str) -> None:
    print(f"density: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    rounds = Amount("rounds", "rounds of requests", 5, 1)
    seconds = Amount("seconds", "seconds for each size in a round", 2, 1)
    options = Options("density", __doc__, rounds, seconds)
    options.parser.add_argument(
        "--workloads", type=positives, help="numbers of policed workloads (1,50,200; with --quick 1,5)"
    )
    given = options.parse(argv)
    given.workloads = given.workloads or ((1, 5) if given.quick else WORKLOADS)
    return given


if __name__ == "__main__":
    sys.exit(main())
