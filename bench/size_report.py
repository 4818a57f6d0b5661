"""What bench/policy-size measured, as Markdown for people and as JSON for the next comparison. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .disturbance import of_modes, too_much
from .figures import Figures, Metric, Spread, spread
from .machine import Machine
from .table import table

AIM = 0.90  # of the RPS without a policy, at the largest size

_TITLES = {
    "paths": "by path, compiled",
    "headers": "by headerMatches, compiled",
    "linear-paths": "by path, listed",
    "linear-headers": "by headerMatches, listed",
}
_METHOD = """\
* One Envoy for each policy and one without any, all in the server's pod in front of the origin (bench/origin.c), with
  one worker each and alike in all but the policy's filter. They are measured in turn, and each ratio divides the RPS of
  one by the RPS of the Envoy without a policy in the same round; below stand the median over the rounds and the
  smallest and largest in brackets. The CPU is user + system time of the Envoys, which suffers less from other load.
* The policy is one CiliumNetworkPolicy with so many http rules for one peer and one port. By path: GET of one exact
  path, or of everything below one, in turn. By headerMatches: GET below one path with one value of X-Api-Key. The
  request that is measured is allowed by the last rule alone; another path and header are checked to get 403.
* Compiled: what the agent makes of the YAML, read by Envoy as a discovered filter. Listed: an RBAC filter with one
  policy for each rule, whose path and method are regexes as the rule writes them.
* Load: wrk in the client's pod, one thread, {connections} keep-alive connections, a closed loop. All requests of a
  timed run must be answered 2xx.
"""
DISTURBED = "The machine was busy with other things: the ratios hold up better than the rest, but not to the percent."


@dataclass(frozen=True, slots=True)
class SizeReport:
    """A whole run. `memory` is resident MB by mode's key."""

    machine: Machine
    figures: Figures
    sizes: tuple[int, ...]
    rounds: int
    seconds: int
    connections: int
    memory: Mapping[str, float]

    def markdown(self) -> str:
        """The report for people."""
        parts = [
            "# Size of a policy",
            f"`bench/policy-size --rounds {self.rounds} --seconds {self.seconds}`, {self.machine}",
            self.table(),
            f"## Memory of Envoy\n\nResident MB (10^6 bytes) after the load.\n\n{self._memory()}",
            f"## Method\n\n{_METHOD.format(connections=self.connections)}",
            f"## Disturbance\n\n{of_modes(self.figures.foreign_share(), DISTURBED)}",
        ]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def table(self) -> str:
        """The ratios and the aim."""
        rows = [
            [title, *(str(self._ratio(label, rules) or "-") for rules in self.sizes)]
            for label, title in _TITLES.items()
        ]
        judged = [
            [
                f"{_TITLES[label]}: RPS >= {AIM:.2f} at {self.sizes[-1]} rules",
                str(ratio),
                "reached" if ratio.median >= AIM else "**not reached**",
            ]
            for label in ("paths", "headers")
            if (ratio := self._ratio(label, self.sizes[-1])) is not None
        ]
        columns = ["rules", *(f"{rules:,}" for rules in self.sizes)]
        cpu = [
            [title, *(str(self._cpu(label, rules) or "-") for rules in self.sizes)] for label, title in _TITLES.items()
        ]
        return (
            f"## RPS relative to no policy\n\n{table(columns, rows)}\n\n"
            f"## Envoy's CPU for a request relative to no policy\n\n{table(columns, cpu)}\n\n"
            f"## Aims\n\n{table(['aim', 'measured', ''], judged)}"
        )

    @property
    def disturbed(self) -> bool:
        """True when others used so much of the machine that the absolute figures say little."""
        return too_much(self.figures.foreign_share().median)

    def json(self) -> dict[str, Any]:
        """All of it as data, down to the single cell."""
        return {
            "machine": asdict(self.machine),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "disturbed": self.disturbed,
            "ratios": [
                {"mode": label, "rules": rules, "metric": metric, **asdict(ratio)}
                for label in _TITLES
                for rules in self.sizes
                for metric, found in (("RPS", self._ratio(label, rules)), ("Envoy CPU", self._cpu(label, rules)))
                if (ratio := found) is not None
            ],
            "memory_mb": dict(self.memory),
            "cells": [asdict(cell) for cell in self.figures.cells],
        }

    def _ratio(self, label: str, rules: int) -> Spread | None:
        return self.figures.ratio(f"{label}-{rules}", f"none-{rules}", self.connections, Metric.RPS)

    def _cpu(self, label: str, rules: int) -> Spread | None:
        """Of the processes called envoy, of which only the measured one has anything to do."""
        cells = [self.figures.of(f"{each}-{rules}", self.connections) for each in (label, "none")]
        spent = [[cell.processes.get("envoy", 0.0) / cell.requests for cell in each if cell.requests] for each in cells]
        ratios = [one / base for one, base in zip(*spent, strict=True) if base]
        return spread(ratios) if ratios else None

    def _memory(self) -> str:
        rows = [
            [title, *(f"{self.memory[f'{label}-{rules}']:.0f}" for rules in self.sizes)]
            for label, title in {"none": "no policy", **_TITLES}.items()
        ]
        return table(["rules", *(f"{rules:,}" for rules in self.sizes)], rows)
