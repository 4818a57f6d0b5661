"""Reading a document strictly: every field is asked for by name and type, and all that is wrong is collected.

A `Field` is a node with its place. Its methods return None (or nothing) and note a problem when the node is not what
was asked for, so that a reader goes on and finds the rest in the same go.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from . import document
from .document import Node
from .grpc_services import GrpcServices
from .problem import Problem, Severity
from .unsupported import Feature

MAX_PROBLEMS = 200  # of one file; nobody reads more

_E = TypeVar("_E", bound=StrEnum)
_NOWHERE: Mapping[str, str] = MappingProxyType({})
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


class Findings:
    """The problems of one file, in the order found, and what its reader must know: what to refuse because nothing
    enforces it, which gRPC services there are (None: any), and how many instructions the patterns of the policy that is
    being read have come to."""

    def __init__(self, source: str, refuse: Mapping[Feature, str], grpc: GrpcServices | None = None) -> None:
        self.source = source
        self.refuse = refuse
        self.grpc = grpc
        self.problems: list[Problem] = []
        self.errors = 0
        self.instructions = 0

    def sorted(self) -> tuple[Problem, ...]:
        """All of them, from the first line to the last."""
        return tuple(sorted(self.problems, key=lambda problem: problem.line))

    def add(self, line: int, path: str, message: str, hint: str = "", severity: Severity = Severity.ERROR) -> None:
        """Note a problem; the ones beyond MAX_PROBLEMS are only counted."""
        if severity is Severity.ERROR:
            self.errors += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(self.source, line, path, message, hint, severity))
        elif len(self.problems) == MAX_PROBLEMS:
            text = f"more than {MAX_PROBLEMS} problems; the rest is not shown"
            self.problems.append(Problem(self.source, line, "", text, "", severity))


class Field:
    """A node, where it stands, and where to report."""

    __slots__ = ("_parent", "findings", "key", "line", "node")

    def __init__(
        self, node: Node, findings: Findings, parent: Field | None = None, key: str | int = "", line: int = 0
    ) -> None:
        self.node = node
        self.findings = findings
        self.key = key
        self.line = line or node.line
        self._parent = parent

    @property
    def path(self) -> str:
        """`spec.ingress[0].toPorts[0]`; a key that is no plain word is written in brackets, in one line whatever it
        is: it is shown on screens."""
        steps: list[str | int] = []
        at: Field | None = self
        while at is not None and at._parent is not None:
            steps.append(at.key)
            at = at._parent
        text = ""
        for step in reversed(steps):
            if isinstance(step, int) or not _PLAIN_KEY.fullmatch(step):
                text += f"[{step if isinstance(step, int) else shorten(step)}]"
            else:
                text += f".{step}" if text else step
        return sys.intern(text)  # thousands of files have the same places

    def error(self, message: str, hint: str = "") -> None:
        """Note that this field is wrong."""
        self.findings.add(self.line, self.path, message, hint)

    def warn(self, message: str, hint: str = "") -> None:
        """Note that this field may not do what its author thinks."""
        self.findings.add(self.line, self.path, message, hint, Severity.WARNING)

    def unsupported(self, feature: Feature) -> None:
        """Refuse this field if nothing enforces the feature yet."""
        if (sentence := self.findings.refuse.get(feature)) is not None:
            self.error(sentence)

    def _expected(self, what: str) -> None:
        match self.node:
            case document.Mapping():
                found = "a mapping"
            case document.Sequence():
                found = "a list"
            case document.Scalar(value=None):
                found = "nothing"
            case document.Scalar(value=str()):
                found = f"the text '{shorten(self.node.text)}'"
            case document.Scalar(value=bool()):
                found = f"the boolean {self.node.text}"
            case _:
                found = f"the number {shorten(self.node.text)}"
        hint = ""
        if what == "text" and isinstance(self.node, document.Scalar) and self.node.value is not None:
            hint = f'quote it: "{shorten(self.node.text)}"'
        self.error(f"{what} expected, not {found}", hint)

    @property
    def is_null(self) -> bool:
        """True for an empty value, which counts as an absent field."""
        return isinstance(self.node, document.Scalar) and self.node.value is None

    def mapping(self, known: Iterable[str] | None, elsewhere: Mapping[str, str] = _NOWHERE) -> dict[str, Field] | None:
        """The fields by name without the null ones; each name that is not `known` is a problem (None: all are).
        `elsewhere` says where names belong that people write here by mistake."""
        node, findings = self.node, self.findings
        if not isinstance(node, document.Mapping):
            self._expected("a mapping")
            return None
        for key, line in node.repeated:
            again = Field(node.entries[key], findings, self, key, line)
            again.error(f"written twice, first in line {node.key_lines[key]}", "remove one of the two")
        names = None if known is None else tuple(known)
        found: dict[str, Field] = {}
        for key, child in node.entries.items():
            if names is not None and key not in names:
                hint = elsewhere.get(key) or suggest(key, names) if len(findings.problems) < MAX_PROBLEMS else ""
                Field(child, findings, self, key, node.key_lines[key]).error(f"unknown field '{shorten(key)}'", hint)
            elif type(child) is not document.Scalar or child.value is not None:
                found[key] = Field(child, findings, self, key, node.key_lines[key])
        return found

    @property
    def value(self) -> document.Value:
        """The scalar as it stands, unchecked; None for a list or mapping."""
        return self.node.value if isinstance(self.node, document.Scalar) else None

    def peek(self) -> dict[str, object]:
        """A mapping's values, unchecked, for rules across fields (of a list or mapping: whether it has content)."""
        if not isinstance(self.node, document.Mapping):
            return {}
        return {
            key: node.value if isinstance(node, document.Scalar) else not document.is_empty(node)
            for key, node in self.node.entries.items()
        }

    def at(self, key: str) -> list[Field]:
        """The entries of the list under `key`, or what stands there alone; unchecked, for rules across fields."""
        if not isinstance(self.node, document.Mapping) or key not in self.node.entries:
            return []
        found = Field(self.node.entries[key], self.findings, self, key, self.node.key_lines[key])
        return found.items() if isinstance(found.node, document.Sequence) else [found]

    def null_fields(self) -> list[Field]:
        """The fields of a mapping that are null, for the places where null is not the same as absent."""
        if not isinstance(self.node, document.Mapping):
            return []
        lines = self.node.key_lines
        return [
            Field(node, self.findings, self, key, lines[key])
            for key, node in self.node.entries.items()
            if isinstance(node, document.Scalar) and node.value is None  # few are, of many
        ]

    def warn_of_nulls(self) -> None:
        """Where a field narrows what is allowed, an empty one (all of it commented out, say) is seldom meant."""
        for field in self.null_fields():
            field.warn(
                f"there is nothing under '{field.key}', so it counts as absent and narrows nothing",
                "write what it is to allow, or remove it",
            )

    def items(self) -> list[Field]:
        """The entries of a list; empty, with a problem, when it is none."""
        if not isinstance(self.node, document.Sequence):
            self._expected("a list")
            return []
        return [Field(node, self.findings, self, index) for index, node in enumerate(self.node.items)]

    def text(self) -> str | None:
        """A string. Numbers and booleans must be quoted, as the API server wants it."""
        if isinstance(self.node, document.Scalar) and isinstance(self.node.value, str):
            return self.node.value
        self._expected("text")
        return None

    def integer(self, first: int, last: int) -> int | None:
        """A whole number within `first`..`last`."""
        if not isinstance(self.node, document.Scalar) or type(self.node.value) is not int:
            self._expected("a whole number")
            return None
        if not first <= self.node.value <= last:
            self.error(f"{shorten(self.node.text)} is out of range", f"write a number from {first} to {last}")
            return None
        return self.node.value

    def boolean(self) -> bool | None:
        """true or false."""
        if isinstance(self.node, document.Scalar) and isinstance(self.node.value, bool):
            return self.node.value
        self._expected("true or false")
        return None

    def choice(self, values: type[_E], what: str) -> _E | None:
        """One of an enumeration's values, spelt exactly."""
        text = self.text()
        if text is None:
            return None
        try:
            return values(text)
        except ValueError:
            names = tuple(value.value for value in values)
            self.error(f"unknown {what} '{shorten(text)}'", suggest(text, names, always=True))
            return None


def shorten(text: str, limit: int = 80) -> str:
    """Text as it goes into a message: in one line and not endless."""
    text = text.encode("unicode_escape").decode() if not text.isprintable() else text
    return text if len(text) <= limit else f"{text[:limit]}..."


def suggest(name: str, known: tuple[str, ...], always: bool = False) -> str:
    """`did you mean 'x'?` for the nearest known name, else the list of names if it is short (or `always`)."""
    by_lower = {item.lower(): item for item in known if item}
    if near := get_close_matches(name[:80].lower(), by_lower, n=1, cutoff=0.6):
        return f"did you mean '{by_lower[near[0]]}'?"
    if by_lower and (always or len(by_lower) <= 12):
        return f"use one of: {', '.join(by_lower.values())}"
    return ""
