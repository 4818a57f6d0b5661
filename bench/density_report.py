"""Memory and requests by the number of workloads, as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .crowd import Footprint
from .disturbance import DISTURBED, of_modes, too_much
from .figures import Figures, Metric
from .machine import Machine
from .table import table

AIM_AT, AIM = 200, 1 / 50  # workloads; memory of the shared Envoy over that of so many sidecars
_METHOD = """\
* A node for each number of workloads, side by side: `lockgate agent run`, its one Envoy, and so many pods (network
  namespaces), each with a CiliumNetworkPolicy of its own that lets the client ask for one path.
* Requests: as in bench/overhead, wrk with 16 connections in a closed loop to one of the workloads; ratios to the
  smallest node are taken within a round, the table shows the median with the smallest and the largest.
* Memory of the shared Envoy and of the agent: after the load. What is the process's own (RssAnon) and what it has
  mapped of files.
* Sidecars: one Envoy in each pod of the largest node, with the configuration of bench/overhead's sidecar pair and
  without any traffic, which would only make them larger. What is each one's own is added up, the binary they all share
  is counted once: the sum of their proportional set sizes, if nobody else runs that binary.
* Every Envoy runs {threads} workers.
"""


@dataclass(frozen=True, slots=True)
class Size:
    """One number of workloads. `key` names its cells."""

    workloads: int
    key: str
    shared: Footprint
    agent: Footprint
    sidecars: Footprint

    @property
    def ratio(self) -> float:
        """Memory of the one Envoy over that of a sidecar each."""
        return self.shared.total / self.sidecars.total


@dataclass(frozen=True, slots=True)
class DensityReport:
    """`sizes` begin with the smallest, to which the others' requests are compared."""

    machine: Machine
    figures: Figures
    sizes: Sequence[Size]
    rounds: int
    seconds: int
    threads: int

    def table(self) -> str:
        """Memory, requests and the aim."""
        parts = [f"## Memory\n\n{self._memory()}", f"## Requests\n\n{self._requests()}"]
        parts += [
            f"Aim: at {AIM_AT} workloads the shared Envoy has at most 1/{1 / AIM:.0f} of the sidecars' memory: "
            f"1/{1 / size.ratio:.0f}, {'reached' if size.ratio <= AIM else '**not reached**'}."
            for size in self.sizes
            if size.workloads == AIM_AT
        ]
        return "\n\n".join(parts)

    def markdown(self) -> str:
        """The report for people."""
        head = f"`bench/density --rounds {self.rounds} --seconds {self.seconds}`, {self.machine}"
        foreign = of_modes(self.figures.foreign_share())
        parts = ["# Workloads on a node", head, self.table(), f"## Method\n\n{_METHOD.format(threads=self.threads)}"]
        return "\n\n".join(part.strip() for part in [*parts, f"## Disturbance\n\n{foreign}"]) + "\n"

    def json(self) -> dict[str, Any]:
        """All of it as data."""
        return {
            "machine": asdict(self.machine),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "sizes": [{**asdict(size), "ratio": size.ratio} for size in self.sizes],
            "cells": [asdict(cell) for cell in self.figures.cells],
        }

    def warning(self) -> str:
        """What is to be told beside the figures; empty when nothing is."""
        return DISTURBED if too_much(self.figures.foreign_share().median) else ""

    def _memory(self) -> str:
        rows = [
            [
                str(size.workloads),
                f"{size.shared.total:.0f} MiB ({size.shared.own:.0f} + {size.shared.program:.0f})",
                f"{size.agent.total:.0f} MiB",
                f"{size.sidecars.total:.0f} MiB ({size.sidecars.own:.0f} + {size.sidecars.program:.0f})",
                f"1/{1 / size.ratio:.1f}",
            ]
            for size in self.sizes
        ]
        columns = ["workloads", "shared Envoy (own + files)", "agent", "sidecars (own + files)", "shared / sidecars"]
        return table(columns, rows)

    def _requests(self) -> str:
        [level] = {cell.concurrency for cell in self.figures.cells}
        base = self.sizes[0]
        rows = [
            [
                str(size.workloads),
                *(str(self.figures.ratio(size.key, base.key, level, metric)) for metric in Metric),
            ]
            for size in self.sizes
        ]
        return table([f"workloads, ratios to {base.workloads}", *Metric], rows)
