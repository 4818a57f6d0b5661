"""The node agent: starts everything that a node needs, ties it together, and ends it in the right order."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from ..envoy.config.identity_filter import Ipcache
from ..envoy.config.running_stream import report_handler
from ..redirect.datapath import Datapath
from ..redirect.errors import RedirectError
from ..redirect.kernel.links import Links
from ..store import Store, StoreContent
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
from .force.reconciler import Reconciler
from .force.service_side import ServiceSide
from .force.stream_watch import StreamWatch
from .inspection.api import LocalApi
from .inspection.metrics import Exposition, Metrics
from .inspection.metrics_port import MetricsPort
from .inspection.node_state import NodeState
from .inspection.policy_status import PolicyStatus
from .inspection.view import NodeView
from .machine.claim import Claim
from .machine.stop_signal import stop_signal
from .machine.thread_pool import have_threads
from .own_envoy import OwnEnvoy
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
            listed, reading = _read(content, last_good)
            stop = stop_signal()

            metrics = Metrics()
            streams = StreamWatch()
            served, files = remote_port(settings.remote, self._state.node)
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
            envoy = OwnEnvoy(claim, self._state, Ipcache(*datapath.ipcache))
            await envoy.ensure()
            applier = Applier(
                datapath,
                xds,
                settings.http_port,
                envoy.runs,
                envoy.tls_side(),
                envoy.kafka_side(),
                dns_port=settings.dns_port,
                dns_uses=dns.use,
                redirecting=datapath.redirecting,
            )
            streams.judge_by(lambda: applier.judging, applier.end_streams)
            self._state.silence = lambda: applier.silence
            changes = ChangeMaker(applier, last_good)
            watch = EffectWatch(xds, self._state.node, settings.admin_socket, metrics.effect_seen)
            ears = AckWatch(
                xds,
                self._state.node,
                settings.run_dir,
                settings.admin_socket,
                lambda: self._state.envoy,
                settings.envoy_hang,
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

            work: dict[str, Coroutine[Any, Any, object]] = {
                "store": self._follow_store(reconciler, bridges),
                "bridges": bridges.run(),
                "links": _follow_links(reconciler),
                "control groups": follow_groups(lambda: self._state.intake.workloads, reconciler.look_again),
                "pins": self._keep_hold(applier, reconciler),
                "envoy": envoy.follow(datapath),
                "reconcile": reconciler.run(listed, reading),
                "services": services.run(),
                "remote nodes": remote.run(),
                "effect": watch.run(),
                "names": learner.run(),
                "stop": stop.wait(),
            }
            if settings.envoy_hang:
                work["answers of Envoy"] = ears.run()
            if self._cluster is not None:
                work["status of policies"] = PolicyStatus(self._cluster, lambda: self._state.intake).run()
            await _first_to_end([asyncio.create_task(each, name=name) for name, each in work.items()])
            log.info("stopping; the kernel and Envoy go on enforcing ('lockgate agent clean' takes them away)")

    async def _follow_store(self, reconciler: Reconciler, bridges: BridgeWatch) -> None:
        async for content in self._store.changes():
            bridges.want(content.networks, content.pods)
            reconciler.store_says(content)

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


def _read(content: StoreContent, last_good: LastGood) -> tuple[Intake, asyncio.Task[Intake]]:
    """The workloads that the store lists, and all that it says: that is read while the kernel's programs are compiled
    and Envoy starts. Raises StateError."""
    reader = SecondReader(content.policies)
    listed = admit(Intake(), replace(content, policies=()), last_good)
    reading = asyncio.create_task(asyncio.to_thread(admit, listed, content, last_good, reader.parse))
    reading.add_done_callback(lambda _: reader.close())
    return listed, reading


async def _first_to_end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Waits for it and ends the others. Raises what it ended by."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_links(reconciler: Reconciler) -> None:
    async with Links() as news:
        async for _ in news:
            reconciler.look_again()


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


__all__ = ["NodeAgent"]
