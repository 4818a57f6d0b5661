"""What bench/xds measured, as Markdown for people and as JSON for the next comparison. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from .churn_report import percentile
from .machine import Machine
from .table import table

_ENFORCED_AIM = 0.010  # seconds
_CLIENTS_AIM, _MEMORY_AIM = 2.0, 400e6  # seconds, bytes
_METHOD = """\
* One change: of N clusters that Envoy has by delta ADS, the one that a listener routes to gets another endpoint. ACKed:
  until the server has Envoy's ACK. Enforced: until the first answer of the new origin is in; requests follow each other
  on one connection. Both from the moment of `publish`; server, Envoy and the asking process share the machine.
  Envoy flushes its statistics when it is asked for them, and what the server begins with is frozen for its garbage
  collection, both as on a node with an agent (otherwise Envoy's main thread stands still every five seconds: measured
  0.16 to 0.27 s with 10000 clusters).
* Clients: each is a delta stream on a connection of its own, all in one process, which shares the machine with the
  server. A change touches every resource of every client. CPU and RSS are the server's; RSS for each client is the
  growth from no client to all, with their resources.
* sovereign {version} (PyPI), what a user could pick in Python today: the same clusters and the same change, in the same
  run. It has no gRPC: Envoy polls it by REST, here 0.1 s after each answer. One worker, a template in Python that reads
  what is wanted at every question (quicker than its own refreshing, in whole seconds), no logs, no authentication, no
  cache. CPU of polls without a change is its processes' over {idle:g} s.
"""
IDLE = 3.0  # seconds


@dataclass(frozen=True, slots=True)
class Change:
    """Single changes at one number of resources: seconds until ACKed and until enforced."""

    resources: int
    acked: tuple[float, ...]
    enforced: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Changes that touch all resources of all clients: seconds and server CPU seconds of each; bytes."""

    clients: int
    resources: int
    seconds: tuple[float, ...]
    cpu: tuple[float, ...]
    rss: int
    rss_alone: int


@dataclass(frozen=True, slots=True)
class Polled:
    """The same changes by the other control plane: seconds until enforced, and cores while nothing changes."""

    resources: int
    enforced: tuple[float, ...]
    idle: float


@dataclass(frozen=True, slots=True)
class XdsReport:
    """One run."""

    machine: Machine
    changes: Sequence[Change]
    crowd: Crowd
    polled: Sequence[Polled]
    version: str

    def table(self) -> str:
        """For people."""
        crowd = self.crowd
        title = f"## A change of all {crowd.resources} resources of {crowd.clients} clients"
        parts = [f"## One change of one resource\n\n{self._one()}", f"{title}\n\n{self._many()}"]
        if self.polled:
            parts.append(f"## Beside it: sovereign {self.version}, polled by REST\n\n{self._beside()}")
        return "\n\n".join([*parts, f"## Aims\n\n{self._aims()}"])

    def markdown(self) -> str:
        """With what it was measured on, and how."""
        method = _METHOD.format(version=self.version, idle=IDLE)
        return f"# The xDS server\n\n`bench/xds`, {self.machine}\n\n{self.table()}\n\n## Method\n\n{method}"

    def json(self) -> dict[str, Any]:
        """All of it as data."""
        return asdict(self)

    def _one(self) -> str:
        rows = [
            [
                str(each.resources),
                *(_ms(median(each.acked)), _ms(percentile(each.acked, 99))),
                *(_ms(median(each.enforced)), _ms(percentile(each.enforced, 99))),
            ]
            for each in self.changes
        ]
        return table(["resources", "ACKed, median", "p99", "enforced, median", "p99"], rows)

    def _many(self) -> str:
        crowd = self.crowd
        each_client = (crowd.rss - crowd.rss_alone) / crowd.clients
        return table(
            ["all ACKed, median", "worst", "CPU of the server", "RSS of the server", "RSS for each client"],
            [
                [
                    f"{median(crowd.seconds):.2f} s",
                    f"{max(crowd.seconds):.2f} s",
                    f"{median(crowd.cpu):.2f} s",
                    f"{crowd.rss / 1e6:.0f} MB",
                    f"{each_client / 1e3:.0f} kB",
                ]
            ],
        )

    def _beside(self) -> str:
        ours = {each.resources: median(each.enforced) for each in self.changes}
        rows = [
            [
                str(each.resources),
                _ms(median(each.enforced)),
                _ms(max(each.enforced)),
                f"{median(each.enforced) / ours[each.resources]:,.0f} x" if each.resources in ours else "",
                f"{each.idle:.2f} cores",
            ]
            for each in self.polled
        ]
        first, last = self.polled[0], self.polled[-1]
        grows = median(last.enforced) / median(first.enforced)
        own = median(self.changes[-1].enforced) / median(self.changes[0].enforced)
        words = (
            f"From {first.resources} to {last.resources} resources its time grows {grows:.1f} times (every poll "
            f"renders, sends and parses all of them), ours {own:.1f} times (only what changed is sent)."
        )
        head = ["resources", "enforced, median", "worst", "to ours", "CPU while nothing changes"]
        return f"{table(head, rows)}\n\n{words}"

    def _aims(self) -> str:
        last, crowd = self.changes[-1], self.crowd
        aims = [
            (f"1 change enforced < {_ms(_ENFORCED_AIM)} at {last.resources}", median(last.enforced) < _ENFORCED_AIM),
            (f"all clients ACKed < {_CLIENTS_AIM:.0f} s", median(crowd.seconds) < _CLIENTS_AIM),
            (f"RSS < {_MEMORY_AIM / 1e6:.0f} MB", crowd.rss < _MEMORY_AIM),
        ]
        return table(["aim", ""], [[aim, "reached" if reached else "**not reached**"] for aim, reached in aims])


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
