"""What can go wrong in this package, apart from problems inside files (those are `Problem`s, see problem.py).

PolicyError
├── FlowError             a flow that cannot be judged: malformed, or it names nobody we know
└── UnreadableError       a YAML document that cannot be read at all (`line` says where)
"""

from __future__ import annotations


class PolicyError(Exception):
    """Base of the package's errors."""


class FlowError(PolicyError):
    """A flow is malformed or names an unknown peer."""


class UnreadableError(PolicyError):
    """A document that is no acceptable YAML. `line` counts from 1; 0 is the file as a whole."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
