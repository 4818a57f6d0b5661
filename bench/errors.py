"""What can stop a bench, each in one sentence.

BenchError
├── CheckError      a mode does not do what its name says, so that its figures would be about something else
├── LoadError       the load generator failed, or requests failed under load
└── StartError      a part of a mode did not come up
"""

from __future__ import annotations


class BenchError(Exception):
    """Base of the bench's errors."""


class CheckError(BenchError):
    """A mode answers a request wrongly, or traffic takes another path than the mode claims."""


class LoadError(BenchError):
    """A timed run cannot be used."""


class StartError(BenchError):
    """A server, an Envoy or an agent did not start."""
