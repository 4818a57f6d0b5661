"""One thing that the doctor looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """WARN: it works, or the agent puts it right by itself; FAIL: no agent can work here."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what was found, and what to do when it is not well."""

    group: str
    name: str
    state: State
    found: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Every field."""
        return {
            "group": self.group,
            "name": self.name,
            "state": str(self.state),
            "found": self.found,
            "advice": self.advice,
        }
