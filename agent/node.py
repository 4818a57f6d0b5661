"""The node agent: starts everything that a node needs, ties it together, and ends it in the right order."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial

from ..envoy.config.access_log import FILE_NAME as ACCESS_LOG
from ..envoy.config.access_log import Rotation
from ..envoy.config.bootstrap import BootstrapSettings, bootstrap, connections_of_one, connections_with
from ..envoy.config.http_listener import HttpListener
from ..envoy.config.identity_filter import Ipcache
from ..envoy.config.kafka_listener import KafkaListener
from ..envoy.config.running_stream import report_handler
from ..envoy.config.tls_listener import TlsListener
from ..envoy.errors import EnvoyError
from ..envoy.inspection.admin import Admin
from ..envoy.running.process import EnvoyProcess, EnvoyStatus, Phase
from ..redirect.datapath import Datapath
from ..redirect.errors import RedirectError
from ..redirect.kernel.links import Links
from ..store import Store
from ..xds import XdsServer
from .dns import clock
from .dns.learner import Learner
from .dns.memory import NameMemory
from .dns.names import Bounds, NameCache
from .dns.proxy import DnsProxy
from .dns.view import dns_counts, dns_view
from .force.ack_watch import AckWatch
from .force.applier import Applier
from .force.bridge_watch import BridgeWatch
from .force.change import ChangeMaker
from .force.effect_watch import Effect, EffectWatch
from .force.group_watch import follow_groups
from .force.kafka_side import KafkaSide
from .force.reconciler import Reconciler
from .force.service_side import ServiceSide
from .force.stream_watch import StreamWatch
from .force.tls_side import TlsSide
from .inspection.api import LocalApi
from .inspection.metrics import Exposition, Metrics
from .inspection.metrics_port import MetricsPort
from .inspection.node_state import NodeState
from .inspection.policy_status import PolicyStatus
from .inspection.view import NodeView
from .machine.claim import Claim
from .machine.stop_signal import stop_signal
from .machine.thread_pool import have_threads
from .remote.admin import remote_doors
from .remote.nodes import RemoteNodes
from .remote.port import remote_port
from .settings import Settings
from .supply.intake import Intake, admit
from .supply.last_good import LastGood
from .supply.processes import Processes
from .supply.second_reader import SecondReader
from .supply.sources import make_store

log = logging.getLogger("lockgate.agent")

_HOLD_CHECK_SECONDS = 2.0
_ENVOY_CHECK_SECONDS = 1.0  # how often a missing supervisor is noticed


class NodeAgent:
    """One node. `run` returns when it is told to stop and leaves the data plane enforcing."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self._settings = settings
        made, self._cluster = make_store(settings)
        self._store: Store = store or made
        self._state = NodeState(settings=settings, node=_node_id())
        self._names = NameCache(Bounds(shortest_ttl=settings.dns_min_ttl))

    async def run(self, claim: Claim) -> None:
        """Runs until SIGTERM or SIGINT.

        Raises:
            HostError, StateError, StoreError, EnvoyError, RedirectError: it cannot start.
        """
        settings = self._settings
        have_threads()
        async with AsyncExitStack() as stack:
            dns = DnsProxy(settings.dns_port, lambda *learned: learner.learn(*learned))
            await dns.open()
            stack.push_async_callback(dns.close)
            last_good = LastGood.open(settings.state_dir)
            stack.callback(last_good.close)
            processes = Processes.open(settings.state_dir)
            stack.callback(processes.close)
            name_memory = NameMemory.open(settings.state_dir)
            stack.callback(name_memory.close)
            name_memory.recall(self._names, clock.now(), time.time())
            content = await self._store.read()
            # Read while the kernel's programs are compiled and Envoy starts.
            reader = SecondReader(content.policies)
            listed = admit(Intake(), replace(content, policies=()), last_good)
            reading = asyncio.create_task(asyncio.to_thread(admit, listed, content, last_good, reader.parse))
            reading.add_done_callback(lambda _: reader.close())
            stop = stop_signal()

            metrics = Metrics()
            streams = StreamWatch()
            served, files = remote_port(settings.remote, _node_id())
            others = [report_handler(streams.reported)]
            xds = XdsServer(settings.xds_socket, metrics, served, others=others)
            nodes = settings.remote.nodes if settings.remote is not None else ()
            remote = RemoteNodes(nodes, xds, settings.state_dir, remote_doors(settings.remote, files))
            stack.callback(remote.close)
            await xds.start()
            stack.push_async_callback(xds.stop)
            datapath = await asyncio.to_thread(Datapath.open, claim.datapath, settings.http_port)
            stack.callback(datapath.close)
            if settings.host_routing:
                log.warning("host routing: the node's firewall and captures do not see all that pods send each other")
            addresses = datapath.services()
            stack.callback(addresses.close)
            services = ServiceSide(addresses)
            self._state.services, self._state.service_problems = services.view, lambda: services.problems
            ipcache = Ipcache(*datapath.ipcache)
            startup = _bootstrap(settings, ipcache)
            envoy = EnvoyProcess(
                settings.run_dir,
                claim.binary,
                startup,
                module=claim.module,
                concurrency=settings.concurrency or None,
                drain=settings.envoy_drain,
                control_group=settings.envoy_cgroup,
                hang=settings.envoy_hang,
            )
            self._state.envoy = await envoy.ensure()
            of_one = _connections_of_one(settings)
            applier = Applier(
                datapath,
                xds,
                settings.http_port,
                self._envoy_runs,
                TlsSide(
                    TlsListener(port=settings.tls_port, connections_per_client=of_one, heap=_heap(settings)),
                    settings.run_dir / ACCESS_LOG,
                    ipcache,
                ),
                KafkaSide(
                    KafkaListener(port=settings.kafka_port, connections_per_client=of_one, heap=_heap(settings)),
                    settings.run_dir / ACCESS_LOG,
                    ipcache,
                ),
                dns_port=settings.dns_port,
                dns_uses=dns.use,
                redirecting=datapath.redirecting,
            )
            streams.judge_by(lambda: applier.judging, applier.end_streams)
            self._state.silence = lambda: applier.silence
            changes = ChangeMaker(applier, last_good)
            watch = EffectWatch(xds, _node_id(), settings.admin_socket, metrics.effect_seen)

            ears = AckWatch(
                xds, _node_id(), settings.run_dir, settings.admin_socket, lambda: self._state.envoy, settings.envoy_hang
            )
            self._state.deafness = lambda: ears.problem

            def made(began: float) -> None:
                metrics.change_made(time.monotonic() - began)
                watch.changed(began)

            reconciler = Reconciler(
                self._state, self._names, applier, changes, last_good, processes, services, remote, made
            )
            reconciler.store_says(content)
            bridges = BridgeWatch(applier.guard, reconciler.apply_again)
            self._state.bridge_problems, self._state.bridge_notes = bridges.problems, bridges.notes
            self._state.closed = lambda: applier.closed
            bridges.want(content.networks, content.pods)
            await bridges.look()
            learner = Learner(
                self._names,
                name_memory,
                bring=reconciler.bring,
                busy=applier.busy,
                matters=lambda name: applier.world is not None and applier.world.asks_for(name),
            )
            self._state.dns = partial(dns_view, dns, self._names)
            self._state.names_problem = lambda: learner.problem
            self._state.effect = watch.effect
            self._state.remote = remote
            self._state.certificates = files
            view = NodeView(self._state, applier.kernel, xds)
            exposition = Exposition(
                metrics,
                settings.admin_socket,
                view.status,
                view.datapath,
                lambda: _counts(
                    [watch.effect, *remote.effects.values()], changes.searches + remote.searches, streams, ears
                ),
                lambda: dns_counts(dns, self._names),
            )
            for service in (
                LocalApi(settings.api_socket, view, exposition),
                MetricsPort(settings.metrics_port, exposition, view.status),
            ):
                await service.start()
                stack.push_async_callback(service.stop)

            tasks = [
                asyncio.create_task(self._follow_store(reconciler, bridges), name="store"),
                asyncio.create_task(bridges.run(), name="bridges"),
                asyncio.create_task(_follow_links(reconciler), name="links"),
                asyncio.create_task(
                    follow_groups(lambda: self._state.intake.workloads, reconciler.look_again), name="control groups"
                ),
                asyncio.create_task(self._keep_hold(applier, reconciler), name="pins"),
                asyncio.create_task(self._follow_envoy(envoy, datapath), name="envoy"),
                asyncio.create_task(reconciler.run(listed, reading), name="reconcile"),
                asyncio.create_task(services.run(), name="services"),
                asyncio.create_task(remote.run(), name="remote nodes"),
                asyncio.create_task(watch.run(), name="effect"),
                asyncio.create_task(learner.run(), name="names"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            if settings.envoy_hang:
                tasks.append(asyncio.create_task(ears.run(), name="answers of Envoy"))
            if self._cluster is not None:
                told = PolicyStatus(self._cluster, lambda: self._state.intake)
                tasks.append(asyncio.create_task(told.run(), name="status of policies"))
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a task that ended by an error ends the agent with it
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            log.info("stopping; the kernel and Envoy go on enforcing ('lockgate agent clean' takes them away)")

    async def _follow_store(self, reconciler: Reconciler, bridges: BridgeWatch) -> None:
        async for content in self._store.changes():
            bridges.want(content.networks, content.pods)
            reconciler.store_says(content)

    async def _follow_envoy(self, envoy: EnvoyProcess, datapath: Datapath) -> None:
        """The supervisor restarts Envoy; this restarts the supervisor, and keeps the log of denials bounded."""
        while True:
            await asyncio.sleep(_ENVOY_CHECK_SECONDS)
            before = self._state.envoy
            try:
                self._state.envoy, problem = await envoy.ensure(), ""
            except EnvoyError as error:
                problem = f"Envoy: {error}"
                with suppress(OSError):
                    self._state.envoy = await envoy.status()
            if problem and problem != self._state.envoy_problem:
                log.error("%s", problem)
            self._state.envoy_problem = problem
            _tell_envoy(before, self._state.envoy)
            if self._state.envoy is not None and self._state.envoy.serves_as_wanted:
                datapath.envoy_asks_makers()
            with suppress(EnvoyError, OSError):
                await self._rotate_log()

    async def _keep_hold(self, applier: Applier, reconciler: Reconciler) -> None:
        """Others of root's may unmount, unpin and detach."""
        while True:
            await asyncio.sleep(_HOLD_CHECK_SECONDS)
            try:
                lost, problem = await applier.keep_hold(), ""
            except RedirectError as error:
                lost, problem = False, str(error)
            if problem and problem != self._state.hold_problem:
                log.error("%s", problem)
            self._state.hold_problem = problem
            if lost:
                log.warning("an endpoint's interface has lost its programs: attached again")
                reconciler.look_again()
                reconciler.apply_again()

    async def _rotate_log(self) -> None:
        if Rotation().rotate(self._settings.run_dir / ACCESS_LOG):
            async with Admin(self._settings.admin_socket) as admin:
                await admin.reopen_logs()

    def _envoy_runs(self) -> bool:
        return self._state.envoy is not None and self._state.envoy.phase is Phase.RUNNING


async def _follow_links(reconciler: Reconciler) -> None:
    async with Links() as news:
        async for _ in news:
            reconciler.look_again()


def _connections() -> int:
    return connections_with(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def _connections_of_one(settings: Settings) -> int:
    return connections_of_one(settings.connections_per_client, _connections())


def _heap(settings: Settings) -> int:
    return settings.envoy_heap_mb * 1_000_000


def _bootstrap(settings: Settings, ipcache: Ipcache) -> bytes:
    return bootstrap(
        BootstrapSettings(
            run_dir=settings.run_dir,
            node_id=_node_id(),
            ipcache=ipcache,
            http=HttpListener(
                port=settings.http_port, connections_per_client=_connections_of_one(settings), heap=_heap(settings)
            ),
            max_heap=_heap(settings),
            max_connections=_connections(),
        )
    )


def _node_id() -> str:
    """How Envoy introduces itself."""
    return socket.gethostname()


def _counts(effects: Sequence[Effect], searches: int, streams: StreamWatch, ears: AckWatch) -> dict[str, int]:
    """For `families_of`."""
    return {
        "looks": sum(effect.looks for effect in effects),
        "drift": sum(len(effect.drifts) for effect in effects),
        "repaired": sum(effect.repaired for effect in effects),
        "searches": searches,
        "streams": streams.ended,
        "deaf_stream": ears.streams,
        "deaf_replacement": ears.replaced,
    }


def _tell_envoy(before: EnvoyStatus | None, now: EnvoyStatus | None) -> None:
    if now is not None and (before is None or _what_matters(before) != _what_matters(now)):
        log.warning("Envoy: %s", now.sentence)


def _what_matters(envoy: EnvoyStatus) -> tuple[object, ...]:
    silent = envoy.silent is not None, envoy.supervisor_idle
    return envoy.phase, envoy.restarts, envoy.epoch, envoy.hot_failure, silent


__all__ = ["NodeAgent"]
