"""An Envoy that lives and does not answer to what it is told: when to do what about it. Pure: somebody else looks.

First its streams are ended, so that it makes others; if that is of no use it is replaced. Between one replacement and
the next cure there is a pause, twice as long each time: the fault may be elsewhere.
"""

from __future__ import annotations

from enum import Enum, auto

from ...envoy.running.backoff import Backoff
from ...xds import Hearing

_LONGEST_PAUSE = 3600.0  # seconds


class Cure(Enum):
    """What to do."""

    END_STREAMS = auto()
    REPLACE = auto()


class Deafness:
    """Of one node's Envoy. `limit`: seconds for which it may say nothing. The time between two looks counts as
    `longest` at most: who looks late was starved or stopped himself, and may not have read its answer yet."""

    def __init__(self, limit: float, longest: float) -> None:
        self._limit = limit
        self._longest = longest
        self._backoff = Backoff(2 * limit, limit=max(_LONGEST_PAUSE, 2 * limit), healthy_after=2 * _LONGEST_PAUSE)
        self._last: float | None = None
        self._words = -1
        self._streams_ended = False
        self._replaced: float | None = None
        self._pause_until = 0.0
        self.seconds = 0.0  # for which it has said nothing though it was to

    def look(self, now: float, hearing: Hearing | None) -> Cure | None:
        """`hearing` None: there is no Envoy that answers to anything, which is others' business."""
        between = min(now - self._last, self._longest) if self._last is not None else 0.0
        self._last = now
        if hearing is None or not hearing.behind or hearing.words != self._words:
            self.seconds = 0.0
            self._words = hearing.words if hearing is not None and hearing.behind else -1
            self._streams_ended = self._streams_ended and hearing is not None and hearing.behind
            return None
        self.seconds += between
        if self.seconds < self._limit or now < self._pause_until:
            return None
        self.seconds = 0.0
        if hearing.connected and not self._streams_ended:
            self._streams_ended = True
            return Cure.END_STREAMS
        self._streams_ended = False
        ran = now - self._replaced if self._replaced is not None else self._backoff.healthy_after
        self._replaced, self._pause_until = now, now + self._backoff.exited(ran)
        return Cure.REPLACE
