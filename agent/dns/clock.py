"""The clock by which what was learned grows old."""

from __future__ import annotations

import time


def now() -> float:
    """Seconds since the machine was started, those in which it was suspended included: a TTL does not wait. Nobody sets
    this clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
