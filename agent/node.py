"""The node agent: follows the store and the node's interfaces, and keeps Envoy and the kernel at what they say."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial

from ..envoy.access_log import FILE_NAME as ACCESS_LOG
from ..envoy.access_log import Rotation
from ..envoy.admin import Admin
from ..envoy.binary import find_binary
from ..envoy.bootstrap import BootstrapSettings, bootstrap
from ..envoy.errors import EnvoyError
from ..envoy.http_listener import HttpListener
from ..envoy.identity_filter import Ipcache
from ..envoy.kafka_listener import KafkaListener
from ..envoy.module_file import find_module
from ..envoy.process import EnvoyProcess, EnvoyStatus, Phase
from ..envoy.running_stream import report_handler
from ..envoy.tls_listener import TlsListener
from ..policies import World
from ..policies.workload import IPAddress
from ..redirect.datapath import Datapath
from ..redirect.device import find_device, node_addresses
from ..redirect.errors import RedirectError
from ..redirect.links import Links
from ..store import Store, StoreContent
from ..xds import XdsServer
from .api import LocalApi
from .applier import Applied, Applier
from .change import Changed, ChangeMaker
from .dns.learner import Learner, Names
from .dns.memory import NameMemory
from .dns.names import Bounds, NameCache
from .dns.proxy import DnsProxy
from .dns.view import dns_counts, dns_view
from .effect_watch import Effect, EffectWatch
from .endpoints import discover
from .errors import StateError
from .host import make_run_dir, require_host, require_port
from .intake import Intake, admit
from .kafka_side import KafkaSide
from .last_good import LastGood
from .lock import AgentLock
from .metrics import Exposition, Metrics
from .metrics_port import MetricsPort
from .remote_nodes import RemoteNodes
from .remote_port import remote_port
from .service_side import ServiceSide
from .settings import Settings
from .sources import make_store
from .stop_signal import stop_signal
from .stream_watch import StreamWatch
from .tls_side import TlsSide
from .view import NodeState, NodeView

log = logging.getLogger("lockgate.agent")

_SETTLE_SECONDS = 0.02  # several news of one change (a pod's links come in pairs, the names of an answer) are one
_RETRY_SECONDS = 1.0  # after the kernel refused something, or Envoy did not answer
_LOOK_SECONDS = 5.0  # for a workload that was not found as it is listed: an address may come without news of a link
_ENVOY_CHECK_SECONDS = 1.0  # how often a missing supervisor is noticed


class NodeAgent:
    """One node. `run` returns when it is told to stop and leaves the data plane enforcing."""

    def __init__(self, settings: Settings, store: Store | None = None) -> None:
        self._settings = settings
        self._store: Store = store or make_store(settings)
        self._content = StoreContent((), ())
        self._intake = Intake()
        self._changed = asyncio.Event()
        self._look_again = True  # the node's interfaces may be others than in `_state.discovery`
        self._state = NodeState(settings=settings, node=_node_id())
        self._names = NameCache(Bounds(shortest_ttl=settings.dns_min_ttl))
        self._rounds: list[asyncio.Event] = []  # set after a round of `_reconcile` that began later

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT.

        Raises:
            HostError, AlreadyRunningError, StateError, StoreError, EnvoyError, RedirectError: it cannot start.
        """
        settings = self._settings
        require_host()
        gc.disable()  # all that is read at the start stays, so looking for garbage in it is lost time
        binary = find_binary(settings.envoy)
        module = find_module(binary)
        make_run_dir(settings.run_dir)
        async with AsyncExitStack() as stack:
            stack.enter_context(AgentLock(settings.run_dir))
            require_port(settings)
            dns = DnsProxy(settings.dns_port, lambda *learned: learner.learn(*learned))
            await dns.open()
            stack.push_async_callback(dns.close)
            last_good = LastGood.open(settings.state_dir)
            stack.callback(last_good.close)
            name_memory = NameMemory.open(settings.state_dir)
            stack.callback(name_memory.close)
            name_memory.recall(self._names, time.monotonic(), time.time())
            self._content = await self._store.read()
            # Read while the kernel's programs are compiled and Envoy starts.
            reading = asyncio.create_task(asyncio.to_thread(admit, self._intake, self._content, last_good))
            stop = stop_signal()

            metrics = Metrics()
            streams = StreamWatch()
            served, files = remote_port(settings.remote, _node_id())
            others = [report_handler(streams.reported)]
            xds = XdsServer(settings.xds_socket, metrics, served, others=others)
            remote = RemoteNodes(settings.remote.nodes if settings.remote is not None else (), xds)
            await xds.start()  # before anything is pinned: a run dir whose name is too long for sockets is refused here
            stack.push_async_callback(xds.stop)
            datapath = await asyncio.to_thread(Datapath.open, settings.pin_dir, settings.http_port)
            stack.callback(datapath.close)
            addresses = datapath.services()
            stack.callback(addresses.close)
            services = ServiceSide(addresses)
            self._state.services, self._state.service_problems = services.view, lambda: services.problems
            ipcache = Ipcache(*datapath.ipcache)
            startup = _bootstrap(settings, ipcache)
            envoy = EnvoyProcess(
                settings.run_dir,
                binary,
                startup,
                module=module,
                concurrency=settings.concurrency or None,
                drain=settings.envoy_drain,
            )
            self._state.envoy = await envoy.ensure()
            applier = Applier(
                datapath,
                xds,
                settings.http_port,
                self._envoy_runs,
                TlsSide(
                    TlsListener(port=settings.tls_port, connections_per_client=settings.connections_per_client),
                    settings.run_dir / ACCESS_LOG,
                    ipcache,
                ),
                KafkaSide(
                    KafkaListener(port=settings.kafka_port, connections_per_client=settings.connections_per_client),
                    settings.run_dir / ACCESS_LOG,
                    ipcache,
                ),
                dns_port=settings.dns_port,
                dns_uses=dns.use,
                redirecting=datapath.redirecting,
            )
            streams.judge_by(lambda: applier.judging, applier.end_streams)
            learner = Learner(
                self._names,
                name_memory,
                bring=partial(self._bring, applier),
                busy=applier.busy,
                matters=lambda name: applier.world is not None and applier.world.asks_for(name),
            )
            self._state.dns = partial(dns_view, dns, self._names)
            self._state.names_problem = lambda: learner.problem
            changes = ChangeMaker(applier, last_good)
            watch = EffectWatch(xds, _node_id(), settings.admin_socket, metrics.effect_seen)
            self._state.effect = watch.effect
            self._state.remote = remote
            self._state.certificates = files
            view = NodeView(self._state, applier.kernel, xds)
            exposition = Exposition(
                metrics,
                settings.admin_socket,
                view.status,
                view.datapath,
                lambda: _counts(watch.effect, changes, streams),
                lambda: dns_counts(dns, self._names),
            )
            for service in (
                LocalApi(settings.api_socket, view, exposition),
                MetricsPort(settings.metrics_port, exposition),
            ):
                await service.start()
                stack.push_async_callback(service.stop)

            def made(began: float) -> None:
                metrics.change_made(time.monotonic() - began)
                watch.changed(began)

            self._changed.set()
            tasks = [
                asyncio.create_task(self._follow_store(), name="store"),
                asyncio.create_task(self._follow_links(), name="links"),
                asyncio.create_task(self._follow_envoy(envoy), name="envoy"),
                asyncio.create_task(
                    self._reconcile(reading, applier, services, last_good, changes, remote, made), name="reconcile"
                ),
                asyncio.create_task(services.run(), name="services"),
                asyncio.create_task(remote.run(), name="remote nodes"),
                asyncio.create_task(watch.run(), name="effect"),
                asyncio.create_task(learner.run(), name="names"),
                asyncio.create_task(stop.wait(), name="stop"),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a task that ended by an error ends the agent with it
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            log.info("stopping; the kernel and Envoy go on enforcing ('lockgate agent clean' takes them away)")

    async def _follow_store(self) -> None:
        async for content in self._store.changes():
            self._content = content
            self._changed.set()

    async def _follow_links(self) -> None:
        async with Links() as news:
            async for _ in news:
                self._look_again = True
                self._changed.set()

    async def _follow_envoy(self, envoy: EnvoyProcess) -> None:
        """The supervisor restarts Envoy; this restarts the supervisor, and keeps the log of denials bounded."""
        while True:
            await asyncio.sleep(_ENVOY_CHECK_SECONDS)
            before = self._state.envoy
            with suppress(EnvoyError):
                self._state.envoy = await envoy.ensure()
            _tell_envoy(before, self._state.envoy)
            with suppress(EnvoyError, OSError):
                await self._rotate_log()

    async def _rotate_log(self) -> None:
        if Rotation().rotate(self._settings.run_dir / ACCESS_LOG):
            async with Admin(self._settings.admin_socket) as admin:
                await admin.reopen_logs()

    async def _reconcile(
        self,
        reading: Awaitable[Intake],
        applier: Applier,
        services: ServiceSide,
        last_good: LastGood,
        changes: ChangeMaker,
        remote: RemoteNodes,
        made: Callable[[float], None],
    ) -> None:
        """Begins with what `reading` gives. `made` is told of every change that Envoy confirmed, with the time it
        began."""
        world: World | None = None
        hosts: tuple[IPAddress, ...] = ()
        selected = False  # a policy is about the node itself
        state = self._state
        while True:
            await self._until_changed()
            started = time.monotonic()
            waiting, self._rounds = self._rounds, []
            before = self._intake if world is not None else await reading
            intake = await asyncio.to_thread(admit, before, self._content, last_good)
            self._tell_problems(self._intake, intake)
            muting: Awaitable[None] | None = None
            looks = self._look_again or intake.workloads != self._intake.workloads
            if looks:
                self._look_again = False
                hosts = await asyncio.to_thread(node_addresses)
                found = await asyncio.to_thread(discover, intake.workloads, find_device)
                _tell_new(found.problems, state.discovery.problems)
                state.discovery = found
                muting = asyncio.create_task(applier.mute(found.endpoints))  # while Envoy is told
            state.intake = self._intake = intake
            applier.names_taken()
            world_of = partial(
                World.of,
                endpoints=state.discovery.endpoints,
                previous=world,
                hosts=hosts,
                services=intake.services,
                names=self._names.by_name(),
                secrets=intake.header_values.values,
                tls=intake.tls,
                node_labels={"kubernetes.io/hostname": state.node, **dict(self._settings.node_labels)},
            )
            wanted = await asyncio.to_thread(world_of, changes.admitted(intake.policies))
            if world is None or not state.settled or not world.tells_the_same(wanted):
                try:
                    changed = await changes.make(wanted, intake.policies, world_of)
                except RedirectError as error:
                    changed = Changed(wanted, Applied(problems=(str(error),)))
                if applier.world is not None:
                    await services.follow(applier.world)
                _tell_applied(state, changed.applied, changed.world, time.monotonic() - started)
                world = changed.world
                state.finish(applier.world or world, changed.applied)
                if not changed.applied.nack:
                    remote.want(world)
                if state.settled:
                    made(started)
                if applier.late:
                    self._changed.set()  # Envoy may have to know
            state.refusals = changes.refusals
            if muting is not None:
                await muting
            selects = applier.world is not None and applier.world.host is not None
            if looks or state.uplink_problems or selects != selected:
                selected = selects
                await self._follow_uplinks(applier)
            if not gc.isenabled():
                gc.freeze()
                gc.enable()
            for event in waiting:
                event.set()
            if state.settled:
                kept = {key: refusal.stand_in for key, refusal in state.refusals.items()}
                accepted = intake.with_stand_ins(
                    {key: each.policy if each.older else None for key, each in kept.items()}
                )
                state.memory_problem = await _remember(last_good, accepted, state.memory_problem)

    async def _follow_uplinks(self, applier: Applier) -> None:
        state = self._state
        try:
            problems = await applier.uplinks(self._settings.uplinks)
        except RedirectError as error:
            problems = (str(error),)
        _tell_new(problems, state.uplink_problems)
        state.uplink_problems = problems

    async def _bring(self, applier: Applier, names: Names) -> None:
        """Learned addresses into force: straight into the kernel where that is enough."""
        if await applier.readdress(names):
            if applier.world is not None and self._state.world is not None:
                self._state.world = applier.world
                if self._state.remote is not None:
                    self._state.remote.want(applier.world)
            return
        done = asyncio.Event()
        self._rounds.append(done)
        self._changed.set()
        await done.wait()

    async def _until_changed(self) -> None:
        """Waits for news, or until what went wrong is worth another try."""
        state = self._state
        looks = state.discovery.problems or state.uplink_problems
        patience = _RETRY_SECONDS if state.applied.problems else _LOOK_SECONDS if looks else None
        try:
            async with asyncio.timeout(patience):
                await self._changed.wait()
        except TimeoutError:
            self._look_again = True
        else:
            if self._look_again or self._rounds:
                await asyncio.sleep(_SETTLE_SECONDS)
        self._changed.clear()

    def _envoy_runs(self) -> bool:
        return self._state.envoy is not None and self._state.envoy.phase is Phase.RUNNING

    def _tell_problems(self, before: Intake, now: Intake) -> None:
        known = set(before.problems)
        for problem in now.problems:
            if problem not in known:
                (log.error if problem.is_error else log.warning)("%s", problem)
        for key, lacking in now.lacking.items():
            for problem in lacking:
                if problem not in before.lacking.get(key, ()):
                    log.warning("%s", problem)
        for key in sorted(now.stale - before.stale):
            log.warning("policy %s stays enforced in its last good version", key)
        for ref in sorted(now.stale_secrets - before.stale_secrets):
            log.warning("secret %s stays in force in its last good version", ref)


def _bootstrap(settings: Settings, ipcache: Ipcache) -> bytes:
    return bootstrap(
        BootstrapSettings(
            run_dir=settings.run_dir,
            node_id=_node_id(),
            ipcache=ipcache,
            http=HttpListener(port=settings.http_port, connections_per_client=settings.connections_per_client),
            max_heap=settings.envoy_heap_mb * 1_000_000,
        )
    )


def _node_id() -> str:
    """How Envoy introduces itself."""
    return socket.gethostname()


def _counts(effect: Effect, changes: ChangeMaker, streams: StreamWatch) -> dict[str, int]:
    """For `families_of`."""
    return {
        "looks": effect.looks,
        "drift": len(effect.drifts),
        "repaired": effect.repaired,
        "searches": changes.searches,
        "streams": streams.ended,
    }


def _tell_new(now: tuple[str, ...], before: tuple[str, ...]) -> None:
    for problem in now:
        if problem not in before:
            log.error("%s", problem)


def _tell_applied(before: NodeState, applied: Applied, world: World, seconds: float) -> None:
    if applied.nack:
        if applied.nack != before.applied.nack:
            log.error("Envoy refused the policies, the last good ones stay enforced: %s", applied.nack)
        return
    for origin, reason in applied.unexpressed:
        log.error("%s:%d: %s: %s", origin.source, origin.line, origin.path, reason)
    _tell_new(applied.problems, before.applied.problems)
    if not applied.problems:
        log.info(
            "%d policies on %d endpoints in force after %.0f ms",
            len(world.policies),
            sum(endpoint.local for endpoint in world.endpoints),
            seconds * 1000,
        )


async def _remember(last_good: LastGood, intake: Intake, before: str) -> str:
    """What keeps the node from surviving a restart with a broken file, in a sentence; empty when nothing does."""
    try:
        await asyncio.to_thread(last_good.remember, intake)
    except StateError as error:
        _tell_new((str(error),), (before,))
        return str(error)
    return ""


def _tell_envoy(before: EnvoyStatus | None, now: EnvoyStatus | None) -> None:
    if now is not None and (before is None or _what_matters(before) != _what_matters(now)):
        log.warning("Envoy: %s", now.sentence)


def _what_matters(envoy: EnvoyStatus) -> tuple[object, ...]:
    return envoy.phase, envoy.restarts, envoy.epoch, envoy.hot_failure


__all__ = ["NodeAgent"]
