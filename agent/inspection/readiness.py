"""When a node counts as ready: it enforces, whatever else there is to complain about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def enforces(status: Mapping[str, Any]) -> bool:
    """Of what `lockgate status` shows: policies are in force, and Envoy runs. A wrong policy changes nothing of it."""
    return bool(status["agent"]["state"] != "starting" and status["envoy"]["state"] == "running")
