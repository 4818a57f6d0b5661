"""The reports of several kinds of load as one. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .disturbance import DISTURBED
from .report import Report


@dataclass(frozen=True, slots=True)
class RunReport:
    """One report for each kind of load, all of one run: they share machine, options and method."""

    title: str
    parts: tuple[Report, ...]

    def table(self) -> str:
        """The ratios and the aims of each."""
        return "\n\n".join(f"# {part.title}\n\n{part.table()}" for part in self.parts)

    def markdown(self) -> str:
        """The report for people."""
        first = self.parts[0]
        texts = [f"# {self.title}", first.head()]
        for part in self.parts:
            texts += [f"# {part.title}", *part.sections(), part.disturbance()]
        texts.append(first.method_section())
        return "\n\n".join(text.strip("\n") for text in texts) + "\n"

    def json(self) -> dict[str, Any]:
        """All of it as data, by title."""
        return {part.title: part.json() for part in self.parts}

    def warning(self) -> str:
        """What is to be told beside the figures; empty when nothing is."""
        return DISTURBED if any(part.disturbed for part in self.parts) else ""
