"""What is wrong with a file, said so that its author can mend it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """An error makes the policy (or workload) unusable; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    `line` counts from 1 (0: the file as a whole), `path` is where in the document (`spec.ingress[0].toPorts[0]`, empty
    for the file as a whole), `message` says what is wrong and `hint` what to write instead (may be empty).
    """

    source: str
    line: int
    path: str
    message: str
    hint: str = ""
    severity: Severity = Severity.ERROR

    @property
    def is_error(self) -> bool:
        """True when what the problem is about cannot be used."""
        return self.severity is Severity.ERROR

    def __str__(self) -> str:
        """`file:line: spec.path: what is wrong; write this instead`, with `warning: ` after the place for a warning."""
        place = f"{self.source}:{self.line}: " if self.line else f"{self.source}: "
        path = f"{self.path}: " if self.path else ""
        mark = "warning: " if self.severity is Severity.WARNING else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{place}{mark}{path}{self.message}{hint}"

    def to_json(self) -> dict[str, object]:
        """The same as data, for `-o json`."""
        return {
            "source": self.source,
            "line": self.line,
            "path": self.path,
            "severity": self.severity.value,
            "message": self.message,
            "hint": self.hint,
        }
