"""Ends streams that outlived the rule which let them in: Envoy reports what runs, policies in force say what may."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

from ...envoy.config.running_stream import RunningStream
from ...policies import World
from ...policies.ongoing import Ongoing
from ...redirect.errors import RedirectError

_log = logging.getLogger(__name__)

End = Callable[[Sequence[RunningStream]], Awaitable[None]]


class StreamWatch:
    """Ends nothing before it was told by what to judge."""

    def __init__(self) -> None:
        self._worlds: Callable[[], Sequence[World]] = tuple
        self._end: End = _end_nothing
        self._ongoing: list[tuple[World, Ongoing]] = []
        self.ended = 0

    def judge_by(self, worlds: Callable[[], Sequence[World]], end: End) -> None:
        """`worlds` are those that Envoy may be judging by: that in force, and while a change is on its way the next one
        too. A stream that one of them allows goes on; `end` closes the others' connections."""
        self._worlds = worlds
        self._end = end

    async def reported(self, streams: Sequence[RunningStream]) -> None:
        """Have what is forbidden ended. Raises nothing: what could not be ended is reported again soon."""
        over: dict[RunningStream, str] = {}
        asked = self._current()
        for stream in streams:
            reasons = [_refusal(ongoing, stream) for ongoing in asked]
            if reasons and all(reasons):
                over[stream] = reasons[0]
        if not over:
            return
        try:
            await self._end(tuple(over))
        except RedirectError as error:
            _log.warning("%d streams that are no longer allowed go on: %s", len(over), error)
            return
        self.ended += len(over)
        for stream, reason in over.items():
            _log.info("ended %s of %s to %s: %s", stream.request, stream.source, stream.destination, reason)

    def _current(self) -> list[Ongoing]:
        worlds = self._worlds()
        if [id(world) for world in worlds] != [id(world) for world, _ in self._ongoing]:
            known = {id(world): ongoing for world, ongoing in self._ongoing}
            self._ongoing = [(world, known.get(id(world)) or Ongoing(world)) for world in worlds]
        return [ongoing for _, ongoing in self._ongoing]


def _refusal(ongoing: Ongoing, stream: RunningStream) -> str:
    ends = stream.source.ip, stream.destination.ip, stream.destination.port
    return ongoing.refusal(*ends, stream.request, stream.chain, stream.made_by)


async def _end_nothing(_streams: Sequence[RunningStream]) -> None:
    """Without a world there is none to end."""
