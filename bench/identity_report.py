"""What the identity filter costs a connection, as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from .disturbance import DISTURBED, too_much
from .machine import Machine
from .table import table

AIM = 2.0  # microseconds of CPU
_METHOD = """\
* Envoys with one worker, one after the other, each with three listeners on loopback: two are alike and have Envoy's own
  `original_dst`, the third has the filter in its place, which also says where a connection wanted to go. They are
  transparent as the node's are: then `original_dst` too asks the socket for its address, as it would on the node. All
  close every connection at once, so that it costs as little as it can. Every second Envoy is told of them in the
  opposite order.
* The map is the data path's own, with so many addresses. Each turn has a source address of its own, which its first
  connection looks up in the kernel and the others find kept.
* A round is one turn of each listener; which is first rotates. What is compared is the CPU time that all of Envoy's
  threads were charged for (/proc/PID/task/*/schedstat), by connection, and within a round. An Envoy counts with the
  median of its rounds; the table shows the median of the Envoys and their middle half.
* What the two listeners that are alike differ by is what the method cannot tell.
"""


@dataclass(frozen=True, slots=True)
class OneEnvoy:
    """Microseconds of CPU for a connection, medians over the rounds: without the filter, and what a listener that is
    alike and one with the filter need more."""

    without: float
    alike: float
    more: float

    @classmethod
    def of(cls, without: Sequence[float], alike: Sequence[float], with_filter: Sequence[float]) -> OneEnvoy:
        """From a value of each for each round."""
        return cls(median(without), _more(without, alike), _more(without, with_filter))

    def __str__(self) -> str:
        return f"{self.without:.2f} us, alike {self.alike:+.2f}, with the filter {self.more:+.2f}"


def _more(before: Sequence[float], after: Sequence[float]) -> float:
    return median(later - earlier for earlier, later in zip(before, after, strict=True))


@dataclass(frozen=True, slots=True)
class IdentityReport:
    """`rounds` and `connections` a round are of each Envoy.

    `foreign`: cores that other processes of the machine used meanwhile.
    """

    machine: Machine
    addresses: int
    connections: int
    rounds: int
    envoys: Sequence[OneEnvoy]
    foreign: float

    @property
    def reached(self) -> bool:
        """Whether the filter costs less than the aim."""
        return median(each.more for each in self.envoys) < AIM

    def table(self) -> str:
        """Medians, and the middle half of the Envoys."""
        rows = [
            ("without the filter", *_spread([each.without for each in self.envoys])),
            ("more on a listener that is alike", *_spread([each.alike for each in self.envoys])),
            ("more with the filter", *_spread([each.more for each in self.envoys])),
        ]
        verdict = "reached" if self.reached else "**not reached**"
        return (
            f"{table(('CPU of Envoy for a connection', 'median', 'middle half'), rows)}\n\n"
            f"Aim: less than {AIM:g} us, {verdict}."
        )

    def markdown(self) -> str:
        """The report for people."""
        options = (
            f"--envoys {len(self.envoys)} --rounds {self.rounds} --connections {self.connections} "
            f"--addresses {self.addresses}"
        )
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
        return DISTURBED if too_much(self.foreign) else ""


def _spread(values: Sequence[float]) -> tuple[str, str]:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.2f} us", f"{low:.2f} to {high:.2f} us"
