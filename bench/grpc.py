"""What a policy for gRPC calls costs: direct, through Envoy without and with one, and a sidecar pair, in one run.

Started by the script `bench/grpc`, which installs what is missing. Exit status: 0 measured (whether or not an aim is
reached), 1 a mode could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from lockgate.envoy.running.binary import find_binary

from . import command, grpc_load
from .figures import Aim, Figures, Metric, outcomes
from .grpc_mode import GrpcDirect, GrpcMode, GrpcOpen, GrpcPoliced, GrpcSidecars
from .machine import machine
from .mode import Ground
from .options import Amount, Options
from .report import Report, warning
from .rounds import rounds
from .standing import standing
from .workplace import prefix, workplace

MODES: tuple[type[GrpcMode], ...] = (GrpcDirect, GrpcOpen, GrpcPoliced, GrpcSidecars)
AIMS = (
    Aim(GrpcPoliced.key, GrpcOpen.key, Metric.RPS, 0.95, at_least=True),
    Aim(GrpcPoliced.key, GrpcOpen.key, Metric.CPU, 1.05, at_least=False),
)
CONCURRENCIES = (1, 16)
METHOD = """\
* Pods are network namespaces on routed veths, each mode with a node, a client, a server and an intruder of its own.
  All modes stand side by side and are idle except the one that is being measured.
* One round measures every mode once at each concurrency; the order of the modes rotates from round to round. Ratios
  are taken within a round; the tables show the median over the rounds with the smallest and the largest in brackets.
* Load: h2load in the client's pod, unary calls of twelve bytes over HTTP/2 with prior knowledge, a closed loop;
  c=1 is one call at a time, c=16 four connections with four calls at a time each. Every call must be answered 200.
* Origin, the same in all modes: nghttpd in the server's pod ({threads} threads), which sends back what it got with
  the trailer `grpc-status: 0`.
* Envoy, no policy: the node's Envoy by a rule that allows every request (`http: [{{}}]`). Envoy, gRPC rule: the same
  with `grpc: [{{service: bench.v1.Echo, method: Get}}]`. Each Envoy runs {threads} workers.
* Sidecar pair: as in bench/overhead, with HTTP/2 upstream; the server's allows POST of the same path.
* CPU per request: all CPU that the machine spent, less what processes outside of the measured mode's namespaces used.
* Before it is timed each mode is checked with grpcio's client: the allowed method answers OK, another gets
  PERMISSION_DENIED where there is a rule, the intruder is dropped (sidecar pair: PERMISSION_DENIED), and Envoy's
  counters show one request for each call. The counters are checked again over every timed run.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report; returns the exit status."""
    options = _options(argv)
    return command.run("grpc", lambda: measure(options), options.output, warning)


def measure(options: argparse.Namespace) -> Report:
    """Bring all modes up, measure them in turn, and take everything down again whatever happens."""
    envoy = find_binary()
    threads = os.sysconf("SC_NPROCESSORS_ONLN")
    with ExitStack() as stack:
        directory = stack.enter_context(workplace())
        # The origin is nghttpd; the path of one that we compile is not used.
        ground = Ground(prefix(), directory, directory, envoy.path, threads)
        modes = [kind(ground) for kind in MODES]
        stack.enter_context(standing(modes, _say))
        cells = rounds(modes, grpc_load.run, CONCURRENCIES, options.rounds, options.seconds, threads, _say)
    figures = Figures(tuple(cells))
    return Report(
        machine=machine(envoy),
        figures=figures,
        titles={kind.key: kind.title for kind in MODES},
        base=GrpcOpen.key,
        concurrencies=CONCURRENCIES,
        rounds=options.rounds,
        seconds=options.seconds,
        threads=threads,
        aims=outcomes(figures, AIMS, CONCURRENCIES),
        title="gRPC",
        command="bench/grpc",
        method=METHOD,
    )


def _say(text: str) -> None:
    print(f"grpc: {text}", file=sys.stderr, flush=True)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    rounds = Amount("rounds", "rounds to measure", 24, 2)
    seconds = Amount("seconds", "seconds for each mode and concurrency", 1, 1)
    return Options("grpc", __doc__, rounds, seconds).parse(argv)


if __name__ == "__main__":
    sys.exit(main())
