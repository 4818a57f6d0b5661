"""The watch over the node's Envoy: whether it answers to what it is told, and what is done when it does not.

Whether its threads do anything its supervisor sees to (envoy/running/hang_watch.py). Here it is about one that works,
and whose stream is dead: half-open, or forgotten by it. It goes on by policies that nobody can change any more, so when
it is replaced it is given next to no time to end its connections.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from ...envoy.errors import AdminError, EnvoyError
from ...envoy.inspection.admin import Admin
from ...envoy.running.process import EnvoyStatus, Phase
from ...envoy.running.restart import restart
from ...xds import Hearing, XdsServer
from .deafness import Cure, Deafness

log = logging.getLogger("lockgate.agent")

_LOOK_SECONDS = 1.0
_DRAIN_SECONDS = 2.0  # the least that there is
_ADMIN_SECONDS = 1.0  # an Envoy that takes longer over a question is busy


class AckWatch:
    """Over the Envoy that is called `node`, runs in `run_dir` and is asked at `admin`; `envoy` is what its supervisor
    says. `limit` is how many seconds it may leave unanswered what it is told."""

    def __init__(
        self,
        xds: XdsServer,
        node: str,
        run_dir: Path,
        admin: Path,
        envoy: Callable[[], EnvoyStatus | None],
        limit: float,
    ) -> None:
        self._xds = xds
        self._node = node
        self._run_dir = run_dir
        self._admin = admin
        self._envoy = envoy
        self._limit = limit
        self._deafness = Deafness(limit, longest=2 * _LOOK_SECONDS)
        self._failure = ""
        self.streams = 0  # that were ended
        self.replaced = 0  # Envoys

    @property
    def problem(self) -> str:
        """A sentence when it has left something unanswered for long."""
        seconds = self._deafness.seconds
        if seconds < self._limit / 3:
            return self._failure
        return self._failure or f"Envoy lives, but has not answered to what it was told for {seconds:.0f} s"

    async def run(self) -> None:
        """For as long as the agent lives."""
        async with Admin(self._admin, timeout=_ADMIN_SECONDS) as admin:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                hearing = await self._hearing(admin)
                match self._deafness.look(time.monotonic(), hearing):
                    case Cure.END_STREAMS:
                        self.streams += (ended := self._xds.end_unanswered(self._node))
                        log.error("Envoy does not answer to what it is told: %d of its xDS streams are ended", ended)
                    case Cure.REPLACE:
                        await self._replace()
                    case None if hearing is None or not hearing.behind:
                        self._failure = ""

    async def _hearing(self, admin: Admin) -> Hearing | None:
        hearing = self._xds.hearing(self._node)
        if hearing.behind:
            envoy = self._envoy()
            if envoy is None or envoy.phase is not Phase.RUNNING or envoy.starting_pid is not None:
                return None
            try:
                await admin.server_info()
            except AdminError:
                return None
        return hearing

    async def _replace(self) -> None:
        log.error("Envoy does not answer to what it is told, also on another stream: it is replaced")
        try:
            await restart(self._run_dir, _DRAIN_SECONDS)
        except (EnvoyError, OSError, ValueError) as error:
            self._failure = f"Envoy does not answer to what it is told, and cannot be replaced: {error}"
            log.error("%s", self._failure)
        else:
            self.replaced += 1
