"""The node's own Envoy: what the settings make of it, and what keeps it and its log going."""

from __future__ import annotations

import asyncio
import logging
import resource
from contextlib import suppress
from dataclasses import replace

from ..envoy.config.access_log import FILE_NAME as ACCESS_LOG
from ..envoy.config.access_log import Rotation
from ..envoy.config.bootstrap import BootstrapSettings, bootstrap, connections_of_one, connections_with
from ..envoy.config.http_listener import HttpListener
from ..envoy.config.identity_filter import Ipcache
from ..envoy.config.kafka_listener import KafkaListener
from ..envoy.config.tls_listener import TlsListener
from ..envoy.errors import EnvoyError
from ..envoy.inspection.admin import Admin
from ..envoy.running.process import EnvoyProcess, EnvoyStatus, Phase
from ..redirect.datapath import Datapath
from .force.kafka_side import KafkaSide
from .force.tls_side import TlsSide
from .inspection.node_state import NodeState
from .machine.claim import Claim

log = logging.getLogger("lockgate.agent")

_CHECK_SECONDS = 1.0  # how often a missing supervisor is noticed


class OwnEnvoy:
    """`state` is kept at what is known of it."""

    def __init__(self, claim: Claim, state: NodeState, ipcache: Ipcache) -> None:
        self._state = state
        self._ipcache = ipcache
        settings = state.settings
        self._access_log = settings.run_dir / ACCESS_LOG
        self._connections = connections_with(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        self._of_one = connections_of_one(settings.connections_per_client, self._connections)
        self._heap = settings.envoy_heap_mb * 1_000_000
        self._process = EnvoyProcess(
            settings.run_dir,
            claim.binary,
            self._bootstrap(),
            module=claim.module,
            concurrency=settings.concurrency or None,
            drain=settings.envoy_drain,
            control_group=settings.envoy_cgroup,
            hang=settings.envoy_hang,
        )

    async def ensure(self) -> None:
        """Start it, or go on with the one that runs. Raises EnvoyError."""
        self._state.envoy = await self._process.ensure()

    def runs(self) -> bool:
        """As it was seen last."""
        return self._state.envoy is not None and self._state.envoy.phase is Phase.RUNNING

    def tls_side(self) -> TlsSide:
        """What it is told of TLS."""
        listener = TlsListener(port=self._state.settings.tls_port, connections_per_client=self._of_one, heap=self._heap)
        http = replace(listener.http, server_connections=self._connections)
        return TlsSide(replace(listener, http=http), self._access_log, self._ipcache)

    def kafka_side(self) -> KafkaSide:
        """What it is told of Kafka."""
        listener = KafkaListener(
            port=self._state.settings.kafka_port, connections_per_client=self._of_one, heap=self._heap
        )
        return KafkaSide(listener, self._access_log, self._ipcache)

    async def follow(self, datapath: Datapath) -> None:
        """The supervisor restarts Envoy; this restarts the supervisor, and keeps the log of denials bounded."""
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            before = self._state.envoy
            try:
                self._state.envoy, problem = await self._process.ensure(), ""
            except EnvoyError as error:
                problem = f"Envoy: {error}"
                with suppress(OSError):
                    self._state.envoy = await self._process.status()
            if problem and problem != self._state.envoy_problem:
                log.error("%s", problem)
            self._state.envoy_problem = problem
            _tell_envoy(before, self._state.envoy)
            if self._state.envoy is not None and self._state.envoy.serves_as_wanted:
                datapath.envoy_asks_makers()
            with suppress(EnvoyError, OSError):
                await self._rotate_log()

    async def _rotate_log(self) -> None:
        if Rotation().rotate(self._access_log):
            async with Admin(self._state.settings.admin_socket) as admin:
                await admin.reopen_logs()

    def _bootstrap(self) -> bytes:
        settings = self._state.settings
        return bootstrap(
            BootstrapSettings(
                run_dir=settings.run_dir,
                node_id=self._state.node,
                ipcache=self._ipcache,
                http=HttpListener(
                    port=settings.http_port,
                    connections_per_client=self._of_one,
                    heap=self._heap,
                    server_connections=self._connections,
                ),
                max_heap=self._heap,
                max_connections=self._connections,
            )
        )


def _tell_envoy(before: EnvoyStatus | None, now: EnvoyStatus | None) -> None:
    if now is not None and (before is None or _what_matters(before) != _what_matters(now)):
        log.warning("Envoy: %s", now.sentence)


def _what_matters(envoy: EnvoyStatus) -> tuple[object, ...]:
    silent = envoy.silent is not None, envoy.supervisor_idle
    return envoy.phase, envoy.restarts, envoy.epoch, envoy.hot_failure, silent
