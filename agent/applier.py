"""Bringing a world into force: Envoy first, then the kernel, then what Envoy no longer needs.

The order makes every moment safe. A redirect is written to the kernel's map only when Envoy has acknowledged the policy
that judges it; an endpoint whose last L7 rule went away keeps its subtree in Envoy (judging by the new policy) until the
kernel stopped redirecting to it. When Envoy refuses a policy nothing further happens: Envoy and the kernel both go on
with what they had.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TypeAlias

from ..policies import World
from ..policies.endpoint_policy import Direction, EndpointPolicy
from ..policies.workload import Endpoint
from ..redirect import Datapath, DatapathPlan, plan
from ..xds import NodeResources, Settled, Snapshot, XdsServer, compile_node

log = logging.getLogger("lockgate.apply")

Policed: TypeAlias = frozenset[tuple[str, Direction]]

_ACK_SECONDS = 20.0  # a connected Envoy that says nothing for so long is treated as one that is not there


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of one attempt. `nack` is Envoy's text when it refused; then nothing was changed."""

    revision: int
    nack: str = ""
    policy_changes: int = 0
    attached: int = 0
    problems: tuple[str, ...] = ()


def policed(enforced: list[tuple[Endpoint, EndpointPolicy]]) -> Policed:
    """The endpoints and directions whose connections (or some of them) go through Envoy."""
    return frozenset(
        (endpoint.key, direction)
        for endpoint, policy in enforced
        for direction in Direction
        if policy.direction(direction).redirects
    )


class Applier:
    """Applies one world after the other; never two at once."""

    def __init__(self, datapath: Datapath, xds: XdsServer, http_port: int) -> None:
        self._datapath = datapath
        self._xds = xds
        self._http_port = http_port
        self._policed: Policed | None = None  # of the world in force; None: unknown, an earlier agent's
        self.resources: NodeResources | None = None

    async def apply(self, world: World, revision: int) -> Applied:
        """Brings `world` into force.

        Raises:
            RedirectError: the kernel refused something; what was applied before it stays, and a retry converges.
        """
        enforced = [(endpoint, world.policy_of(endpoint)) for endpoint in world.endpoints if endpoint.local]
        wanted = policed(enforced)
        before = wanted if self._policed is None else self._policed
        if self._policed is None:
            # What an earlier agent made the kernel redirect is not known here: keep a subtree for every endpoint.
            before = frozenset((endpoint.key, direction) for endpoint, _ in enforced for direction in Direction)

        answer = await self._publish(world, enforced, wanted | before)
        if answer.nacked:
            return Applied(revision, nack=answer.error)
        if not answer.acked:
            # Nobody listens on Envoy's ports, so what the kernel redirects is dropped until Envoy is back.
            log.warning("Envoy is not connected; L7 connections are dropped until it is")

        datapath_plan = plan(enforced, world.ipcache, self._http_port)
        changes, problems, attached = await asyncio.to_thread(self._sync_kernel, enforced, datapath_plan)
        self._policed = wanted
        if before - wanted:
            await self._publish(world, enforced, wanted)
        return Applied(revision, policy_changes=changes, attached=attached, problems=problems)

    async def _publish(self, world: World, enforced: list[tuple[Endpoint, EndpointPolicy]], keep: Policed) -> Settled:
        self.resources = compile_node(enforced, world.ipcache, keep)
        snapshot = Snapshot.of(self.resources)
        await self._xds.publish(snapshot)
        return await self._xds.settled(snapshot, _ACK_SECONDS)

    def _sync_kernel(
        self, enforced: list[tuple[Endpoint, EndpointPolicy]], datapath_plan: DatapathPlan
    ) -> tuple[int, tuple[str, ...], int]:
        """Maps before programs: a program that finds no entry drops everything."""
        raise NotImplementedError
