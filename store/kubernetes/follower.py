"""Follows one collection of a cluster: a list, then a watch, and both again when one of them breaks."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from ..errors import KubernetesError
from .access import Access
from .api import TROUBLE, WATCH_SECONDS, AnswerError, Api
from .known import ExpiredError, Known, RefusedError
from .resource import Resource

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds between attempts
_ABSENT_PAUSE = 10.0  # for a collection that the cluster does not have
_SOUND_SECONDS = 5.0  # a watch that lasted that long was none of a series that fail
_NOT_FOUND = 404
_REFUSALS = 3  # in a row, after which a list is asked for: the server may have been set back to an older state
_FAILURES = (*TROUBLE, KubernetesError, RefusedError)


class Follower:
    """Keeps `known` as the server has it. While it cannot be asked what was known stays, and `problem` says why.

    `changed` is called when anything that is told of the collection may be different.
    """

    def __init__(self, resource: Resource, access: Callable[[], Access], changed: Callable[[], None]) -> None:
        self.known = Known(resource)
        self.problem = ""  # why the server cannot be asked
        self.absent = False  # the cluster has no such collection
        self._access = access
        self._changed = changed
        self._pause = _FIRST_PAUSE
        self._refusals = 0
        self._just_listed = False

    @property
    def resource(self) -> Resource:
        """What is followed."""
        return self.known.resource

    async def look(self) -> None:
        """One list. It does not fail: what went wrong is in `problem`."""
        try:
            async with Api(self._access()) as api:
                await self._list(api)
        except (ExpiredError, *_FAILURES) as error:
            self._fails(error)

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            pause = 0.0
            began = time.monotonic()
            try:
                async with Api(self._access()) as api:
                    if self.known.version is None or not (self._just_listed or await self._is_sound(api)):
                        await self._list(api)
                    self._just_listed = False
                    await self._watch(api)
            except ExpiredError:
                self.known.forget_version()
            except _FAILURES as error:
                pause = self._fails(error)
            if time.monotonic() - began > _SOUND_SECONDS:
                self._pause = _FIRST_PAUSE
            # A server that ends every watch at once, or forgets at once, is given time too.
            await asyncio.sleep(max(pause, self._pause * random.uniform(0.5, 1.0)))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _list(self, api: Api) -> None:
        try:
            items, version = await api.all(self.resource)
        except AnswerError as error:
            if error.status != _NOT_FOUND or not self.resource.other_version:
                raise
            other = self.resource.in_other_version()
            items, version = await api.all(other)
            self.known.resource = other
        changed = self.known.replace(items, version)
        self._just_listed = True
        self._answers(changed)

    async def _is_sound(self, api: Api) -> bool:
        """False when the server was set back to a backup since: no watch tells."""
        return not self.known.is_ahead_of(await api.version(self.resource))

    async def _watch(self, api: Api) -> None:
        assert self.known.version is not None
        seconds = int(WATCH_SECONDS * random.uniform(1.0, 2.0))  # not all agents of a cluster at once
        async for events in api.watch(self.resource, self.known.version, seconds):
            changed = False
            try:
                for event in events:
                    changed |= self.known.apply(event)
            finally:
                self._answers(changed)

    def _answers(self, changed: bool) -> None:
        self._refusals = 0
        if changed or self.problem or self.absent:
            self.problem, self.absent = "", False
            self._changed()

    def _fails(self, error: Exception) -> float:
        """How long to leave the server alone, at least."""
        if isinstance(error, AnswerError) and error.status == _NOT_FOUND and self.resource.optional:
            self._told("", absent=True)
            return _ABSENT_PAUSE * random.uniform(0.5, 1.0)
        if isinstance(error, AnswerError | RefusedError | ValueError):
            self._refusals += 1
            if self._refusals % _REFUSALS == 0:
                self.known.forget_version()
        self._told(str(error) or type(error).__name__)
        return error.retry if isinstance(error, AnswerError) else 0.0

    def _told(self, problem: str, absent: bool = False) -> None:
        if (self.problem, self.absent) != (problem, absent):
            self.problem, self.absent = problem, absent
            self._changed()
