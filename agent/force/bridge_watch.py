"""Follows the engines' networks, the cluster's and the node's interfaces, and has them guarded within milliseconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from ...redirect.errors import RedirectError
from ...redirect.kernel.links import Links
from ...store import ContainerNetwork, PodNetwork
from .bridge_guard import Guarded

log = logging.getLogger("lockgate.agent")

_LOOK_SECONDS = 1.0  # while there is somebody who is not known, or something failed
_CHECK_SECONDS = 10.0  # of what somebody may have taken away, as who loads another firewall does
_UNKNOWN_SECONDS = 5.0  # an engine tells of a container that starts well before that
_CONTAINER = "no container that an engine under engines in --config has told of"
_POD = "no pod of this node that the Kubernetes API has told of"


class BridgeWatch:
    """`guard` guards the bridges of these networks, and pods; `others` is told when other prefixes are closed from now
    on."""

    def __init__(
        self,
        guard: Callable[[Sequence[ContainerNetwork], PodNetwork | None], Awaitable[Guarded]],
        others: Callable[[], None],
    ) -> None:
        self._guard = guard
        self._others = others
        self._networks: Sequence[ContainerNetwork] = ()
        self._pods: PodNetwork | None = None
        self._news = asyncio.Event()
        self._failures: tuple[str, ...] = ()
        self._notes: tuple[str, ...] = ()
        self._unknown: dict[tuple[str, str], float] = {}  # since when, of time.monotonic

    def want(self, networks: Sequence[ContainerNetwork], pods: PodNetwork | None = None) -> None:
        """The engines' networks from now on, and where pods are."""
        if (networks, pods) != (self._networks, self._pods):
            self._networks, self._pods = networks, pods
            self._news.set()

    def problems(self) -> tuple[str, ...]:
        """Sentences about what is not guarded, and about who has been cut off for a while."""
        long_ago = time.monotonic() - _UNKNOWN_SECONDS
        engines = {network.bridge for network in self._networks}
        strangers = tuple(
            f"{port}{f' on bridge {bridge}' if bridge else ''} is {_CONTAINER if bridge in engines else _POD} (or one "
            "with a problem): what it sends and what is sent to it is dropped"
            for (port, bridge), since in self._unknown.items()
            if since <= long_ago
        )
        return self._failures + strangers

    def notes(self) -> tuple[str, ...]:
        """Sentences about what this kernel cannot do; the rest goes on without it."""
        return self._notes

    async def look(self) -> None:
        """Guards what there is now."""
        try:
            guarded = await self._guard(self._networks, self._pods)
        except RedirectError as error:
            guarded = Guarded(problems=(str(error),))
        for problem in guarded.problems:
            if problem not in self._failures:
                log.error("%s", problem)
        for note in guarded.notes:
            if note not in self._notes:
                log.warning("%s", note)
        self._failures, self._notes = guarded.problems, guarded.notes
        now = time.monotonic()
        self._unknown = {each: self._unknown.get(each, now) for each in guarded.unknown}
        if guarded.others:
            self._others()

    def _patience(self) -> float | None:
        if self._unknown or self._failures:
            return _LOOK_SECONDS
        return _CHECK_SECONDS if self._networks or self._pods is not None else None

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with Links() as links:

            async def follow() -> None:
                async for _ in links:
                    self._news.set()

            following = asyncio.create_task(follow())
            try:
                while True:
                    self._news.clear()
                    await self.look()
                    try:
                        async with asyncio.timeout(self._patience()):
                            await self._news.wait()
                    except TimeoutError:
                        pass
            finally:
                following.cancel()
