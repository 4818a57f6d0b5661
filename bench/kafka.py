"""What the Kafka filter costs: direct, through Envoy with and without it, and a sidecar pair, in one run.

Started by the script `bench/kafka`, which installs what is missing. Exit status: 0 measured (whether or not an aim is
reached), 1 a mode could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from lockgate.envoy.running.binary import find_binary

from . import command, kafka_load
from .figures import Aim, Figures, Metric, outcomes
from .kafka_messages import Work, works
from .kafka_mode import KafkaDirect, KafkaMode, KafkaOpen, KafkaPoliced, KafkaSidecars
from .machine import machine
from .mode import Ground
from .options import Amount, Options
from .report import Report
from .rounds import rounds
from .run_report import RunReport
from .standing import standing
from .workplace import compiled, prefix, workplace

MODES: tuple[type[KafkaMode], ...] = (KafkaDirect, KafkaOpen, KafkaPoliced, KafkaSidecars)
_SMALL, _LARGE = 0.97, 0.95  # of plain tcp_proxy
CONCURRENCIES = (1, 16)
METHOD = """\
* Pods are network namespaces on routed veths, each mode with a node, a client, a server and an intruder of its own.
  All modes stand side by side and are idle except the one that is being measured.
* One round measures every mode once at each concurrency; the order of the modes rotates from round to round. Ratios
  are taken within a round; the tables show the median over the rounds with the smallest and the largest in brackets.
* Load: bench/kafka_load.c in the client's pod, so many connections with one request at a time each, a closed loop.
  Produce version 9 and Fetch version 12; every response must have the right length, correlation id and no error.
* Broker, the same in all modes: bench/kafka_origin.c in the server's pod ({threads} threads), which answers each
  request with a response that was made before; it keeps nothing, so that it is not what is measured.
* Envoy, Kafka rules: `lockgate agent run` and a policy that lets the client produce to and consume from one topic.
  Envoy, tcp_proxy: the same agent, policy, redirection and listener, without the Kafka filter in the connections' way.
  Each Envoy runs {threads} workers.
* Sidecar pair: as in bench/overhead, with tcp_proxy; the server's judges by address only.
* CPU per request: all CPU that the machine spent, less what processes outside of the measured mode's namespaces used.
* Before it is timed each mode is checked: a produce to the allowed topic gets no error, to another 29
  TOPIC_AUTHORIZATION_FAILED where there are rules, the intruder is dropped (sidecar pair: closed), and Envoy's counters
  show the bytes of each request. The counters are checked again over every timed run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("kafka", lambda: measure(options), options.output, RunReport.warning)


def measure(options: argparse.Namespace) -> RunReport:
    """Bring all modes up, measure them in turn, and take everything down again whatever happens."""
    envoy = find_binary()
    threads = os.sysconf("SC_NPROCESSORS_ONLN")
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        ground = Ground(prefix(), directory, compiled("kafka_origin.c", directory), envoy.path, threads)
        modes = [kind(ground) for kind in MODES]
        stack.enter_context(standing(modes, _say))
        figures = {}
        for work in works():
            _say(work.title)
            for mode in modes:
                mode.sends = work.request
            load = kafka_load.prepare(work, directory)
            cells = rounds(modes, load, CONCURRENCIES, options.rounds, options.seconds, threads, _say)
            figures[work] = Figures(tuple(cells))
    return RunReport(
        "Kafka",
        tuple(
            Report(
                machine=machine(envoy),
                figures=measured,
                titles={kind.key: kind.title for kind in MODES},
                base=KafkaOpen.key,
                concurrencies=CONCURRENCIES,
                rounds=options.rounds,
                seconds=options.seconds,
                threads=threads,
                aims=outcomes(measured, aims(work), CONCURRENCIES),
                title=work.title,
                command="bench/kafka",
                method=METHOD,
            )
            for work, measured in figures.items()
        ),
    )


def aims(work: Work) -> tuple[Aim, ...]:
    """What the filter may cost."""
    bound = _SMALL if work.key == "small" else _LARGE
    return (Aim(KafkaPoliced.key, KafkaOpen.key, Metric.RPS, bound, at_least=True),)


def _say(text: str) -> None:
    print(f"kafka: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    rounds = Amount("rounds", "rounds to measure", 8, 2)
    seconds = Amount("seconds", "seconds for each mode and concurrency", 1, 1)
    return Options("kafka", __doc__, rounds, seconds).parse(argv)


if __name__ == "__main__":
    sys.exit(main())
