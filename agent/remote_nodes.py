"""Remote Envoys: each is told the policies of the workloads that the list puts on its node, and nothing else.

Nothing here waits for another node: each has a task of its own, which knows one world to bring about and the steps that
lead there, and goes from step to step as that node's Envoy acknowledges. An Envoy that is away gets the last step when
it comes. What one refuses stays its own trouble.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..policies import Policy, World
from ..policies.endpoint_policy import Direction
from ..policies.identity import IPNetwork
from ..policies.workload import IPAddress, Workload
from ..xds import (
    Enforced,
    NodeCompiler,
    NodeResources,
    Outcome,
    Policed,
    Resource,
    Snapshot,
    XdsServer,
    XdsStatus,
    address_tables,
)
from .blame import likely

log = logging.getLogger("lockgate.agent")

_LOOK_SECONDS = 1.0  # how often it is asked whether a node is still there


@dataclass(frozen=True, slots=True)
class _Told:
    """What a node's Envoy is told about one world."""

    enforced: Enforced
    policed: Policed
    http: NodeResources
    tables: tuple[Resource, ...]

    @property
    def snapshot(self) -> Snapshot:
        return self.http.snapshot().joined(self.tables)


class RemoteNode:
    """One of them."""

    def __init__(self, node: str, xds: XdsServer) -> None:
        self.node = node
        self._xds = xds
        self._compiler = NodeCompiler()
        self._wanted: World | None = None
        self._news = asyncio.Event()
        self._told: _Told | None = None  # what it took up last, or will find when it comes
        self._tables: tuple[Mapping[IPNetwork, int], frozenset[IPAddress], tuple[Resource, ...]] | None = None
        self.problem = ""

    def want(self, world: World) -> None:
        """From now on this world, and no other before it that has not been begun."""
        self._wanted = world
        self._news.set()

    async def run(self) -> None:
        """For as long as the agent lives."""
        while True:
            await self._news.wait()
            self._news.clear()
            assert self._wanted is not None
            try:
                await self._bring(self._wanted)
                self.problem = ""
            except Exception as error:  # whatever it is, the node that the agent runs on must not suffer from it
                log.exception("remote node %s", self.node)
                self.problem = f"remote node {self.node} was not told of the last change: {error!r}"

    async def _bring(self, world: World) -> None:
        final, steps = await asyncio.to_thread(self._steps, world)
        for step in steps:
            revision = await self._xds.publish(step, self.node)
            answer = await self._xds.settled(revision, 0.0, self.node)
            while answer.outcome is Outcome.TIMEOUT:
                answer = await self._xds.settled(revision, _LOOK_SECONDS, self.node)
            if answer.outcome is Outcome.NACKED:
                log.error("remote node %s refused a change and keeps what it had: %s", self.node, answer.text)
                return
            if answer.outcome is Outcome.NO_CLIENT:
                await self._xds.publish(steps[-1], self.node)  # there is nothing to get over for an Envoy that is away
                break
        self._told = final

    def _steps(self, world: World) -> tuple[_Told, Sequence[Snapshot]]:
        """What to publish, one after the other: policies of the new world also for who leaves, then who is who, then
        the policies alone. At every step an address has an identity of which Envoy has been told."""
        enforced = [(each, world.policy_of(each)) for each in world.endpoints if each.workload.node == self.node]
        tables = self._address_tables(world.ipcache, frozenset(ip for each, _ in enforced for ip in each.ips))
        # Here no kernel judges anybody, so everybody is judged whole.
        policed = frozenset((each.identity, direction) for each, _ in enforced for direction in Direction)
        before = self._told
        steps = []
        if before is not None:
            staying = {each.identity for each, _ in enforced}
            leaving = [pair for pair in before.enforced if pair[0].identity not in staying]
            both = self._compiler.compile([*enforced, *leaving], policed | before.policed).snapshot()
            steps += [both.joined(before.tables), both.joined(tables)]
        final = _Told(enforced, policed, self._compiler.compile(enforced, policed), tables)
        steps.append(final.snapshot)
        return final, [step for number, step in enumerate(steps) if step not in steps[number + 1 : number + 2]]

    def _address_tables(self, ipcache: Mapping[IPNetwork, int], own: frozenset[IPAddress]) -> tuple[Resource, ...]:
        """Most changes of policies leave them as they are."""
        if self._tables is None or self._tables[:2] != (ipcache, own):
            self._tables = (ipcache, own, address_tables(ipcache, own))
        return self._tables[2]


class RemoteNodes:
    """All that the agent's configuration names."""

    def __init__(self, nodes: Iterable[str], xds: XdsServer) -> None:
        self._nodes = {node: RemoteNode(node, xds) for node in nodes}

    @property
    def names(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(self._nodes)

    def want(self, world: World) -> None:
        """Bring this about on all of them; returns at once."""
        for node in self._nodes.values():
            node.want(world)

    async def run(self) -> None:
        """For as long as the agent lives."""
        async with asyncio.TaskGroup() as group:
            for node in self._nodes.values():
                group.create_task(node.run(), name=f"remote node {node.node}")
            await asyncio.Event().wait()

    def problems(self, workloads: Iterable[Workload], status: XdsStatus, policies: Sequence[Policy]) -> list[str]:
        """A sentence for each thing that is wrong with remote nodes; that one is not connected is not."""
        found = [
            f"workload {each.key} is on node {each.node}, which is not among remote: nodes in the config file: "
            "nothing is enforced for it"
            for each in workloads
            if each.node and each.node not in self._nodes
        ]
        found += [node.problem for node in self._nodes.values() if node.problem]
        for client in status.clients:
            if client.remote:
                for entry in client.types:
                    found += [
                        f"remote node {client.node} refuses {each.name}{_because_of(policies, each.error)} and keeps "
                        f"what it had: {each.error}"
                        for each in entry.resources
                        if each.error
                    ]
        return list(dict.fromkeys(found))


def _because_of(policies: Sequence[Policy], text: str) -> str:
    names = [str(policy.key) for policy in likely(policies, text)]
    return f" (policy {', '.join(names)})" if names else ""
