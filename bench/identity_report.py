"""What the identity filter costs a connection, as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from .machine import Machine
from .report import DISTURBED
from .table import table

AIM = 2.0  # microseconds of CPU
_TOLERATED = 0.05  # cores
_METHOD = """\
* One Envoy with one worker has two listeners on loopback that are alike but for the filter. Both have `original_dst`
  before it and close every connection at once, so that a connection costs as little as it can.
* The map is the data path's own, with so many addresses. Each turn has a source address of its own, which its first
  connection looks up in the kernel and the others find kept.
* A round is one turn of each listener, now the one first, now the other. What is compared is the CPU time that all of
  Envoy's threads were charged for (/proc/PID/task/*/schedstat), by connection, and within a round.
"""


@dataclass(frozen=True, slots=True)
class IdentityReport:
    """Microseconds of Envoy's CPU for a connection; `without` and `with_filter` have a value for each round.

    `foreign`: cores that other processes of the machine used meanwhile.
    """

    machine: Machine
    addresses: int
    connections: int
    without: Sequence[float]
    with_filter: Sequence[float]
    foreign: float

    @property
    def differences(self) -> list[float]:
        """Of each round."""
        return [after - before for before, after in zip(self.without, self.with_filter, strict=True)]

    @property
    def reached(self) -> bool:
        """Whether the filter costs less than the aim."""
        return median(self.differences) < AIM

    def table(self) -> str:
        """Medians, and the middle half of the rounds."""
        rows = [
            ("without the filter", *_spread(self.without)),
            ("with the filter", *_spread(self.with_filter)),
            ("difference, by round", *_spread(self.differences)),
        ]
        verdict = "reached" if self.reached else "**not reached**"
        return (
            f"{table(('CPU of Envoy for a connection', 'median', 'middle half'), rows)}\n\n"
            f"Aim: less than {AIM:g} us, {verdict}."
        )

    def markdown(self) -> str:
        """The report for people."""
        options = f"--rounds {len(self.without)} --connections {self.connections} --addresses {self.addresses}"
        disturbance = f"Other processes of the machine used {self.foreign:.2f} cores meanwhile."
        if self.warning():
            disturbance += f" **{DISTURBED}**"
        parts = [
            "# The identity filter",
            f"`bench/identity {options}`, {self.machine}",
            self.table(),
            f"## Method\n\n{_METHOD}",
            f"## Disturbance\n\n{disturbance}",
        ]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def json(self) -> dict[str, Any]:
        """All of it as data."""
        return {**asdict(self), "aim": AIM, "reached": self.reached}

    def warning(self) -> str:
        """What is to be told beside the figures; empty when nothing is."""
        return DISTURBED if self.foreign > _TOLERATED else ""


def _spread(values: Sequence[float]) -> tuple[str, str]:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} us", f"{low:.2f} to {high:.2f} us"
