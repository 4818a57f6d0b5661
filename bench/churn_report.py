"""What bench/policy-churn measured, as Markdown for people and as JSON for the next comparison. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from statistics import median
from typing import Any

from .disturbance import too_much
from .machine import Machine
from .table import table

CHANGE_AIM = 0.1  # seconds, median
START_AIM = 5.0  # seconds
MEMORY_AIM = 400.0  # MB of the agent

_METHOD = """\
* Endpoints are network namespaces on routed veths behind one node, enforced by `lockgate agent run` with its Envoy. One
  file holds one policy. Policies are in turn an HTTP rule (GET of one path) and a plain TCP port, each with a peer of
  its own among the endpoints; four more let the client to two of the endpoints.
* One change: a file is replaced by renaming over it. The time runs from just before the rename to the first answer that
  the new policy gives to a client that asks every millisecond or two: on one kept HTTP connection (403 to 200 and
  back), or by new connections to a TCP port (SYN dropped to answered and back). Changes open and close in turn;
  between two of them is a pause of 150 to 250 ms, so each finds the agent at rest.
* Added policies are written one after the other with {pause} ms between, without waiting for any. Meanwhile ten flows
  to two endpoints, which get added policies too, are asked 100 times a second each: allowed and forbidden paths on
  kept connections, kept and new connections to a plain port, and a closed port. A wrong answer is one that the
  policies never gave. `behind` is the time from the last file to the moment when each policy added to these two was
  seen in force.
* First start: from the agent's exec to the moment when its API, asked every 50 ms, calls it ready. Nothing of an
  earlier one is there: no state, no eBPF programs in the kernel or on the disk, so they are compiled. Envoy is started
  too.
  After a reboot: the same when `lockgate agent clean` has taken away all that a reboot takes. What was accepted last
  and the compiled programs are on the disk, or in the machine's copy of it in memory.
  Restart: the same with the state of an earlier agent and a living Envoy, which went on enforcing.
* RSS is VmRSS after the first start; the highest ever (VmHWM) after all changes stands beside it. MB are 10^6 bytes.
* CPU is user + system time of the agent's and of Envoy's process, from /proc/PID/stat.
"""
DISTURBED = "The machine was busy with other things: only ratios and growth say something."


@dataclass(frozen=True, slots=True)
class Start:
    """One start of the agent: seconds until it was ready, its CPU seconds till then, resident MB of both processes."""

    ready: float
    agent_cpu: float
    agent_rss: float
    envoy_rss: float


@dataclass(frozen=True, slots=True)
class Changes:
    """Single changes: seconds of each until it was enforced; CPU seconds for one."""

    opened: tuple[float, ...]
    closed: tuple[float, ...]
    agent_cpu: float
    envoy_cpu: float

    @property
    def seconds(self) -> tuple[float, ...]:
        """All of them."""
        return self.opened + self.closed

    def __str__(self) -> str:
        return f"median {median(self.seconds) * 1000:.0f} ms, p99 {percentile(self.seconds, 99) * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class Added:
    """Policies added one after the other: seconds of writing and of what was left to do then, and the watched flows."""

    count: int
    wrote: float
    behind: float
    asked: int
    wrong: int

    def __str__(self) -> str:
        return (
            f"{self.count} added in {self.wrote:.1f} s, in force {self.behind:.2f} s later, "
            f"{self.wrong} wrong of {self.asked} answers"
        )


@dataclass(frozen=True, slots=True)
class Size:
    """Everything about one number of policies. `entries` are the kernel's, `foreign` what others used, in cores."""

    policies: int
    entries: int
    cold: Start
    rebooted: Start
    warm: Start
    http: Changes
    plain: Changes
    added: Added
    agent_peak: float
    envoy_peak: float
    foreign: float


@dataclass(frozen=True, slots=True)
class ChurnReport:
    """A whole run; `sizes` from the smallest to the largest."""

    machine: Machine
    endpoints: int
    changes: int
    add: int
    pause: int
    sizes: tuple[Size, ...]

    def markdown(self) -> str:
        """The report for people."""
        options = f"--endpoints {self.endpoints} --changes {self.changes} --add {self.add} --pause {self.pause}"
        parts = [
            "# Changes of policy",
            f"`bench/policy-churn {options}`, {self.machine}",
            self.table(),
            f"## Method\n\n{_METHOD.format(pause=self.pause)}",
            f"## Disturbance\n\n{self._disturbance()}",
        ]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def table(self) -> str:
        """The figures and the aims."""
        return (
            f"## On {self.endpoints} endpoints\n\n{self._figures()}\n\n"
            f"## Aims, at {self.sizes[-1].policies} policies\n\n{self._aims()}"
        )

    @property
    def disturbed(self) -> bool:
        """True when others used so much of the machine that the absolute figures say little."""
        return too_much(max(size.foreign for size in self.sizes))

    def json(self) -> dict[str, Any]:
        """All of it as data, down to the single change."""
        return {
            "machine": asdict(self.machine),
            "endpoints": self.endpoints,
            "pause_ms": self.pause,
            "disturbed": self.disturbed,
            "aims": [{"aim": aim, "measured": value, "reached": reached} for aim, value, reached in self._judged()],
            "sizes": [asdict(size) for size in self.sizes],
        }

    def _figures(self) -> str:
        rows: list[list[str]] = []
        for what, change in (("HTTP", "http"), ("L4", "plain")):
            each: list[Changes] = [getattr(size, change) for size in self.sizes]
            rows += [
                [f"1 {what} change, median", *(_ms(median(changes.seconds)) for changes in each)],
                [f"1 {what} change, p99", *(_ms(percentile(changes.seconds, 99)) for changes in each)],
                ["- CPU of the agent", *(_ms(changes.agent_cpu) for changes in each)],
                ["- CPU of Envoy", *(_ms(changes.envoy_cpu) for changes in each)],
            ]
        added = [size.added for size in self.sizes]
        rows += [
            [f"{self.add} added: behind", *(f"{each.behind:.2f} s" for each in added)],
            ["- wrong answers", *(f"{each.wrong} of {each.asked}" for each in added)],
            ["first start", *(f"{size.cold.ready:.2f} s" for size in self.sizes)],
            ["- CPU of the agent", *(f"{size.cold.agent_cpu:.2f} s" for size in self.sizes)],
            ["start after a reboot", *(f"{size.rebooted.ready:.2f} s" for size in self.sizes)],
            ["- CPU of the agent", *(f"{size.rebooted.agent_cpu:.2f} s" for size in self.sizes)],
            ["restart of the agent", *(f"{size.warm.ready:.2f} s" for size in self.sizes)],
            ["RSS of the agent", *(f"{size.cold.agent_rss:.0f} MB" for size in self.sizes)],
            ["- highest, with those added", *(f"{size.agent_peak:.0f} MB" for size in self.sizes)],
            ["RSS of Envoy", *(f"{size.cold.envoy_rss:.0f} MB" for size in self.sizes)],
            ["- highest, with those added", *(f"{size.envoy_peak:.0f} MB" for size in self.sizes)],
            ["policy entries in the kernel", *(str(size.entries) for size in self.sizes)],
        ]
        return table(["", *(f"{size.policies} policies" for size in self.sizes)], rows)

    def _aims(self) -> str:
        rows = [[aim, value, "reached" if reached else "**not reached**"] for aim, value, reached in self._judged()]
        return table(["aim", "measured", ""], rows)

    def _judged(self) -> list[tuple[str, str, bool]]:
        most = self.sizes[-1]
        http, plain = median(most.http.seconds), median(most.plain.seconds)
        wrong = sum(size.added.wrong for size in self.sizes)
        return [
            (f"1 HTTP change < {_ms(CHANGE_AIM)}", _ms(http), http < CHANGE_AIM),
            (f"1 L4 change < {_ms(CHANGE_AIM)}", _ms(plain), plain < CHANGE_AIM),
            (f"{self.add} added, 0 wrong answers", str(wrong), wrong == 0),
            *(
                (f"{what} < {START_AIM:.0f} s", f"{start.ready:.2f} s", start.ready < START_AIM)
                for what, start in (("first start", most.cold), ("start after a reboot", most.rebooted))
            ),
            (f"RSS of the agent < {MEMORY_AIM:.0f} MB", f"{most.agent_peak:.0f} MB", most.agent_peak < MEMORY_AIM),
        ]

    def _disturbance(self) -> str:
        shares = ", ".join(f"{size.foreign:.2f}" for size in self.sizes)
        text = f"CPU that other processes of the machine used meanwhile, in cores, by size: {shares}."
        return f"{text} **{DISTURBED}**" if self.disturbed else text


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` % of the values do not exceed."""
    return sorted(values)[max(0, ceil(len(values) * percent / 100) - 1)]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
