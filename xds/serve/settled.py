"""How the clients took what was published."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How the connected clients took a snapshot."""

    ACKED = "acked"
    NACKED = "nacked"
    NO_CLIENT = "no client"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Settled:
    """`errors` are Envoy's own texts by (type URL, resource name); only NACKED has any."""

    outcome: Outcome
    errors: tuple[tuple[tuple[str, str], str], ...] = ()

    @property
    def acked(self) -> bool:
        """True when every client confirmed everything."""
        return self.outcome is Outcome.ACKED

    @property
    def text(self) -> str:
        """Envoy's texts in one line; empty when there are none."""
        return "; ".join(f"{name}: {error}" for (_, name), error in self.errors)


@dataclass(frozen=True, slots=True)
class Hearing:
    """Of one node's clients on the socket. `behind`: there are none, or one has not answered to all that is published.
    `words`: how many requests have come from them."""

    connected: bool
    behind: bool
    words: int
