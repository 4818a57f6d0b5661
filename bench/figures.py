"""From measured cells to figures that can be compared: per-round ratios, their spread, and the aims. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from .cpu import Usage
from .load import Load


class Metric(StrEnum):
    """What is compared. Latencies and CPU are better when smaller."""

    RPS = "RPS"
    CPU = "CPU per request"
    P50 = "p50"
    P99 = "p99"
    P999 = "p99.9"


@dataclass(frozen=True, slots=True)
class Cell:
    """One mode at one concurrency (of an open loop: rate) in one round. CPU in seconds, latencies in microseconds."""

    mode: str
    concurrency: int
    round: int
    requests: int
    seconds: float
    p50: float
    p99: float
    p999: float
    cpu: float
    foreign: float  # CPU seconds of processes that have nothing to do with the cell; not in `cpu`
    processes: Mapping[str, float] = field(default_factory=dict)  # parts of `cpu`

    @classmethod
    def of(cls, mode: str, concurrency: int, number: int, seen: Load, usage: Usage) -> Cell:
        """What the load saw in round `number`, and what was used meanwhile."""
        return cls(
            mode=mode,
            concurrency=concurrency,
            round=number,
            requests=seen.requests,
            seconds=seen.seconds,
            p50=seen.p50,
            p99=seen.p99,
            p999=seen.p999,
            cpu=usage.path,
            foreign=usage.foreign,
            processes=usage.processes,
        )

    def value(self, metric: Metric) -> float:
        """RPS in requests a second, the others in microseconds."""
        match metric:
            case Metric.RPS:
                return self.requests / self.seconds
            case Metric.CPU:
                return self.cpu / self.requests * 1e6
            case Metric.P50:
                return self.p50
            case Metric.P99:
                return self.p99
            case Metric.P999:
                return self.p999


@dataclass(frozen=True, slots=True)
class Spread:
    """A median with the smallest and largest value it came from."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    held = list(values)
    return Spread(median(held), min(held), max(held))


@dataclass(frozen=True, slots=True)
class Figures:
    """All cells of a run: each mode, concurrency and round at most once."""

    cells: tuple[Cell, ...]

    def of(self, mode: str, concurrency: int) -> list[Cell]:
        """The cells of one mode at one concurrency, by round."""
        found = [cell for cell in self.cells if (cell.mode, cell.concurrency) == (mode, concurrency)]
        return sorted(found, key=lambda cell: cell.round)

    def typical(self, mode: str, concurrency: int, metric: Metric) -> float:
        """The median over the rounds, as measured."""
        return median(cell.value(metric) for cell in self.of(mode, concurrency))

    def ratio(self, mode: str, base: str, concurrency: int, metric: Metric) -> Spread | None:
        """`mode` over `base` within each round, so that slow drifts of the machine cancel; None without `base`."""
        bases = {cell.round: cell.value(metric) for cell in self.of(base, concurrency)}
        ratios = [cell.value(metric) / bases[cell.round] for cell in self.of(mode, concurrency) if cell.round in bases]
        return spread(ratios) if ratios else None

    def cpu_parts(self, mode: str, concurrency: int) -> dict[str, float]:
        """Microseconds of CPU per request by process, median over the rounds; "kernel" was charged to no process."""
        cells = self.of(mode, concurrency)
        names = sorted({name for cell in cells for name in cell.processes})
        parts = {name: median(cell.processes.get(name, 0.0) / cell.requests for cell in cells) for name in names}
        parts["kernel"] = median(max(0.0, cell.cpu - sum(cell.processes.values())) / cell.requests for cell in cells)
        return {name: seconds * 1e6 for name, seconds in parts.items()}

    def foreign_share(self) -> Spread:
        """CPU that others used while a cell ran, in cores."""
        return spread(cell.foreign / cell.seconds for cell in self.cells)


@dataclass(frozen=True, slots=True)
class Aim:
    """A ratio that the project wants to reach."""

    mode: str
    base: str
    metric: Metric
    bound: float
    at_least: bool

    def reached(self, ratio: float) -> bool:
        """True when `ratio` is on the right side of the bound."""
        return ratio >= self.bound if self.at_least else ratio <= self.bound

    def sentence(self, titles: Mapping[str, str]) -> str:
        """The aim in words; `titles` names the modes by key."""
        sign = ">=" if self.at_least else "<="
        return f"{titles[self.mode]}: {self.metric} {sign} {self.bound:.2f} of {titles[self.base]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An aim at one concurrency. `reached` is judged by the median."""

    aim: Aim
    concurrency: int
    ratio: Spread

    @property
    def reached(self) -> bool:
        """True when the median ratio meets the aim."""
        return self.aim.reached(self.ratio.median)


def outcomes(figures: Figures, aims: Iterable[Aim], concurrencies: Iterable[int]) -> list[Outcome]:
    """Each aim at each concurrency, as far as its two modes were measured."""
    levels = tuple(concurrencies)
    found = []
    for aim in aims:
        for concurrency in levels:
            ratio = figures.ratio(aim.mode, aim.base, concurrency, aim.metric)
            if ratio is not None:
                found.append(Outcome(aim, concurrency, ratio))
    return found
