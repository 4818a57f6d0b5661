"""What enforcement costs: direct, L4- and L7-policed, by nft TPROXY and a classic sidecar pair, in one run.

Started by the script `bench/overhead`, which installs what is missing. Exit status: 0 measured (whether or not an aim
is reached), 1 a mode could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from lockgate.envoy.running.binary import find_binary

from . import command, load, paced
from .direct import Direct
from .figures import Aim, Figures, Metric, outcomes
from .machine import machine
from .mode import Ground, Mode
from .options import Amount, Options
from .policed import HostRouted, PolicedL4, PolicedL7
from .report import Report
from .rounds import rounds
from .run_report import RunReport
from .sidecar import SidecarPair
from .standing import standing
from .tproxy import Tproxy
from .workplace import compiled_origin, positives, prefix, workplace

MODES: tuple[type[Mode], ...] = (Direct, PolicedL4, HostRouted, PolicedL7, Tproxy, SidecarPair)
BASE = SidecarPair.key
AIMS = (
    Aim(PolicedL4.key, Direct.key, Metric.RPS, 0.95, at_least=True),
    Aim(HostRouted.key, Direct.key, Metric.RPS, 0.95, at_least=True),
    Aim(PolicedL7.key, SidecarPair.key, Metric.RPS, 2.5, at_least=True),
    Aim(PolicedL7.key, SidecarPair.key, Metric.CPU, 0.45, at_least=False),
)
AIMS_AT_RATES = (Aim(PolicedL7.key, SidecarPair.key, Metric.P99, 0.6, at_least=False),)
CONCURRENCIES = (1, 16)
RATE = "{:,}/s"
RATES = (1000, 2000, 4000)  # requests a second; the sidecar pair must be able to keep up with each


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("overhead", lambda: measure(options), options.output, RunReport.warning)


def measure(options: argparse.Namespace) -> RunReport:
    """Bring all modes up, measure them in turn, and take everything down again whatever happens."""
    envoy = find_binary()
    kinds = [kind for kind in MODES if kind.key in options.modes]
    threads = os.sysconf("SC_NPROCESSORS_ONLN")
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        ground = Ground(prefix(), directory, compiled_origin(directory), envoy.path, threads)
        modes = [kind(ground) for kind in kinds]
        stack.enter_context(standing(modes, _say))
        by_clock = paced.prepare(directory)
        closed = Figures(tuple(rounds(modes, load.run, CONCURRENCIES, options.rounds, options.seconds, threads, _say)))
        opened = Figures(
            tuple(rounds(modes, by_clock, options.rates, options.rounds, options.seconds, threads, _say, RATE))
        )
    saturated = Report(
        machine=machine(envoy),
        figures=closed,
        titles={kind.key: kind.title for kind in kinds},
        base=BASE,
        concurrencies=CONCURRENCIES,
        rounds=options.rounds,
        seconds=options.seconds,
        threads=threads,
        aims=outcomes(closed, AIMS, CONCURRENCIES),
        title="As many requests as can be (closed loop)",
    )
    at_rates = replace(
        saturated,
        figures=opened,
        concurrencies=options.rates,
        aims=outcomes(opened, AIMS_AT_RATES, options.rates),
        title="At fixed rates (open loop)",
        level=RATE,
    )
    return RunReport("Overhead of enforcement", (saturated, at_rates))


def _say(text: str) -> None:
    print(f"overhead: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    rounds = Amount("rounds", "rounds to measure", 12, 2)
    seconds = Amount("seconds", "seconds for each mode and concurrency", 1, 1)
    keys = [kind.key for kind in MODES]
    options = Options("overhead", __doc__, rounds, seconds)
    options.parser.add_argument("--rates", type=positives, default=RATES, help="requests a second of the open loop")
    options.parser.add_argument(
        "--modes", type=_keys, default=keys, help=f"only these, with commas between: {','.join(keys)}"
    )
    return options.parse(argv, lambda given: given.modes == keys)


def _keys(text: str) -> list[str]:
    keys = text.split(",")
    unknown = set(keys) - {kind.key for kind in MODES}
    if unknown:
        raise argparse.ArgumentTypeError(f"no such mode: {', '.join(sorted(unknown))}")
    return keys


if __name__ == "__main__":
    sys.exit(main())
