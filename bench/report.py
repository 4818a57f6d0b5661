"""A run as Markdown for people and as JSON for the next comparison. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .disturbance import DISTURBED, of_modes, too_much
from .figures import Figures, Metric, Outcome
from .machine import Machine
from .table import table

_METHOD = """\
* Pods are network namespaces on routed veths, each mode with a node, a client, a server and an intruder of its own.
  All modes stand side by side and are idle except the one that is being measured.
* One round measures every mode once at each concurrency; the order of the modes rotates from round to round. Ratios
  are taken within a round; the tables show the median over the rounds with the smallest and the largest in
  brackets.
* Load: wrk in the client's pod, keep-alive GETs of a body of a dozen bytes over IPv4, a closed loop, as many
  threads as cores (one at c=1). Every request of a timed run must be answered 2xx.
* Load at a fixed rate: bench/paced.c in the client's pod, one thread, the same GETs over 16 keep-alive connections, an
  open loop: a request's latency counts from the moment it was due, also when all connections were waiting. Every
  request must be answered 200.
* Origin, the same in all modes: bench/origin.c in the server's pod, epoll, as many threads as cores, one read and
  one write a request.
* CPU per request: all CPU that the machine spent (wall clock x cores - idle - iowait - steal, from /proc/stat),
  less what processes outside of the measured mode's namespaces used. It contains the load generator, the origin and
  all softirq work.
* L4-policed, L7-policed: `lockgate agent run` in the node's namespace, with one CiliumNetworkPolicy for the
  server's pod. The L7 one allows `GET /api/v1/users`. With host routing: `host_routing: true` in its --config.
* Sidecar pair: one Envoy in the client's pod catching its outbound connections, one in the server's pod catching
  inbound ones (nft REDIRECT, original_dst, connection manager, router, ORIGINAL_DST cluster with keep-alive pools);
  the server's has an RBAC filter with the same rule. Connection manager settings are those of the shared Envoy,
  except that the sidecars need not keep the case of header names. No Envoy writes an access log for an allowed
  request. Every Envoy runs {threads} workers.
* nft TPROXY: one such Envoy in the node's namespace, transparent and with original_src, with the RBAC filter of the
  server's sidecar; packets get to it by nft (socket transparent, tproxy) and a routing rule, without eBPF.
* Before it is timed, each mode is checked: the allowed path answers 200, the forbidden one 403 (L7-policed, nft
  TPROXY, sidecar pair), the intruder is dropped (L4- and L7-policed) or gets 403 (nft TPROXY, sidecar pair), the server
  sees the client's address (the sidecar pair: that of its own pod), and Envoy's counters show one request for each one
  sent, or none (L4-policed). The counters are checked again over every timed run.
"""

_AS_MEASURED = "Medians over the rounds, of this machine on that day; only the ratios are worth comparing."
_CPU_PARTS = """\
Microseconds per request, median over the rounds. `load` is wrk; `kernel` is what no process was charged for: softirqs
on an idle core, and kernel threads."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a run has to say. `titles` names the measured modes by key; ratios divide by the mode `base`."""

    machine: Machine
    figures: Figures
    titles: dict[str, str]
    base: str
    concurrencies: tuple[int, ...]
    rounds: int
    seconds: int
    threads: int
    aims: Sequence[Outcome]
    title: str = "Overhead of enforcement"
    command: str = "bench/overhead"
    method: str = _METHOD  # {threads} stands for their number
    level: str = "c={}"  # how a concurrency is written; of an open loop it is a rate

    def markdown(self) -> str:
        """The report for people."""
        parts = [f"# {self.title}", self.head(), *self.sections(), self.method_section(), self.disturbance()]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def sections(self) -> list[str]:
        """The figures: ratios and aims, what they are of, and where the CPU went."""
        return [
            self.table(),
            f"## As measured\n\n{_AS_MEASURED}\n\n{self._absolute()}",
            f"## Where the CPU went\n\n{_CPU_PARTS}\n\n{self._parts()}",
        ]

    def method_section(self) -> str:
        """How it was measured."""
        return f"## Method\n\n{self.method.format(threads=self.threads)}"

    def table(self) -> str:
        """The ratios and the aims: what the run is about."""
        parts = []
        if self.base in self.titles:
            parts.append(f"## Ratios to the {self.titles[self.base]}\n\n{self._ratios()}")
        if self.aims:
            parts.append(f"## Aims\n\n{self._aims()}")
        return "\n\n".join(parts)

    @property
    def disturbed(self) -> bool:
        """True when others used so much of the machine that the figures say little about the modes."""
        return too_much(self.figures.foreign_share().median)

    def json(self) -> dict[str, Any]:
        """All of it as data, down to the single cell."""
        return {
            "machine": asdict(self.machine),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "threads": self.threads,
            "base": self.base,
            "disturbed": self.disturbed,
            "ratios": [
                {"mode": mode, "concurrency": level, "metric": metric.value, **asdict(ratio)}
                for level in self.concurrencies
                for mode in self.titles
                for metric in Metric
                if (ratio := self.figures.ratio(mode, self.base, level, metric)) is not None
            ],
            "aims": [
                {
                    "aim": each.aim.sentence(self.titles),
                    "concurrency": each.concurrency,
                    "reached": each.reached,
                    **asdict(each.ratio),
                }
                for each in self.aims
            ],
            "cells": [asdict(cell) for cell in self.figures.cells],
        }

    def _ratios(self) -> str:
        rows = [
            [
                self.level.format(level),
                title,
                *(str(self.figures.ratio(mode, self.base, level, metric)) for metric in Metric),
            ]
            for level in self.concurrencies
            for mode, title in self.titles.items()
            if mode != self.base
        ]
        return table(["", "", *Metric], rows)

    def _absolute(self) -> str:
        rows = []
        for level in self.concurrencies:
            for mode, title in self.titles.items():
                rps, *times = (self.figures.typical(mode, level, metric) for metric in Metric)
                rows.append([self.level.format(level), title, f"{rps:,.0f}/s", *(f"{value:.0f} us" for value in times)])
        return table(["", "", *Metric], rows)

    def _parts(self) -> str:
        parts = {
            (level, mode): self.figures.cpu_parts(mode, level) for level in self.concurrencies for mode in self.titles
        }
        names = sorted({name for part in parts.values() for name, spent in part.items() if spent >= 0.05})
        rows = [
            [
                self.level.format(level),
                self.titles[mode],
                *(f"{part[name]:.1f}" if name in part else "" for name in names),
            ]
            for (level, mode), part in parts.items()
        ]
        return table(["", "", *names], rows)

    def _aims(self) -> str:
        rows = [
            [
                each.aim.sentence(self.titles),
                self.level.format(each.concurrency),
                str(each.ratio),
                "reached" if each.reached else "**not reached**",
            ]
            for each in self.aims
        ]
        return table(["aim", "", "measured", ""], rows)

    def head(self) -> str:
        """The command, when, and on what."""
        return f"`{self.command} --rounds {self.rounds} --seconds {self.seconds}`, {self.machine}"

    def disturbance(self) -> str:
        """What else the machine did meanwhile."""
        return f"## Disturbance\n\n{of_modes(self.figures.foreign_share())}"


def warning(report: Report) -> str:
    """What is to be told beside the figures; empty when nothing is."""
    return DISTURBED if report.disturbed else ""
