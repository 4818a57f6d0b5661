"""The command line. Exit status: 0 yes, 1 the answer is no, 2 usage, 3 the agent or Envoy cannot be reached."""

from __future__ import annotations

from .app import run

__all__ = ["run"]
