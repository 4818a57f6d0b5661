"""From an answer to an address that may be connected to: what the proxy learns is brought into force and written down,
and leaves again when its time is over and nobody uses it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from typing import TypeAlias

from ...policies.workload import IPAddress
from ...redirect.errors import RedirectError
from ..errors import StateError
from . import clock
from .memory import NameMemory
from .names import NameCache

log = logging.getLogger("lockgate.agent.dns")

Names: TypeAlias = Mapping[IPAddress, frozenset[str]]

_LOOK_SECONDS = 1.0  # how often it is asked whether anything has expired
_WRITE_SECONDS = 0.05  # between two writings, so that a busy node writes few and large ones
_RETRY_SECONDS = 5.0  # after the state directory failed


class _Batch:
    def __init__(self) -> None:
        self.addresses: set[IPAddress] = set()
        self.done = asyncio.Event()


class Learner:
    """`bring` puts addresses with their names into force and returns when that is done; `busy` says which are in use;
    `matters` whether any policy asks for a name."""

    def __init__(
        self,
        cache: NameCache,
        memory: NameMemory,
        bring: Callable[[Names], Awaitable[None]],
        busy: Callable[[Set[IPAddress]], Awaitable[frozenset[IPAddress]]],
        matters: Callable[[str], bool],
    ) -> None:
        self._cache = cache
        self._memory = memory
        self._bring = bring
        self._busy = busy
        self._matters = matters
        self._next = _Batch()
        self._current: _Batch | None = None
        self._news = asyncio.Event()
        self._unwritten = asyncio.Event()
        self.problem = ""  # with the state directory

    async def learn(self, client: str, name: str, addresses: tuple[IPAddress, ...], ttl: int) -> None:
        """An answer for `name`. Returns when its addresses are in force, if any policy asks for the name."""
        self._changed(self._cache.learn(client, name, addresses, ttl, clock.now()))
        if not self._matters(name):
            return
        for batch in (self._current, self._next):
            if batch is not None and not batch.addresses.isdisjoint(addresses):
                await batch.done.wait()

    async def run(self) -> None:
        """Until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._bring_news())
            group.create_task(self._expire())
            group.create_task(self._write())

    def _changed(self, addresses: Set[IPAddress]) -> None:
        self._unwritten.set()
        if addresses:
            self._next.addresses |= addresses
            self._news.set()

    async def _bring_news(self) -> None:
        """What comes while one batch is on its way makes up the next."""
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._next = self._next, _Batch()
            self._current = batch
            try:
                await self._bring({address: self._cache.names_of(address) for address in batch.addresses})
            except RedirectError as error:
                log.error("learned addresses did not come into force: %s", error)
            finally:
                self._current = None
                batch.done.set()

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            first, now = self._cache.next_expiry(), clock.now()
            if first is None or first > now:
                continue
            try:
                busy = await self._busy(self._cache.overdue(now))
            except (OSError, RedirectError) as error:
                log.error("cannot tell which learned addresses are in use, so none is forgotten: %s", error)
                continue
            self._changed(self._cache.expire(now, busy))

    async def _write(self) -> None:
        while True:
            await self._unwritten.wait()
            self._unwritten.clear()
            touched = self._cache.touched()
            try:
                await asyncio.to_thread(self._memory.note, touched, clock.now(), time.time())
                self.problem = ""
                await asyncio.sleep(_WRITE_SECONDS)
            except StateError as error:
                if str(error) != self.problem:
                    log.error("%s", error)
                self.problem = str(error)
                self._cache.retouch(learned for learned, _ in touched)
                await asyncio.sleep(_RETRY_SECONDS)
                self._unwritten.set()
