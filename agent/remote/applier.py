"""Bringing a world to the Envoy of one remote node, in steps that it acknowledges one by one.

No kernel of ours judges there, so Envoy is told the whole of every policy of the node's workloads, and who is who.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...policies import PolicyKey, World
from ...policies.endpoint_policy import Direction, RuleOrigin
from ...policies.identity import IPNetwork
from ...policies.workload import Endpoint, IPAddress
from ...redirect.room import Need
from ...xds import (
    TABLES,
    Enforced,
    NodeCompiler,
    NodeResources,
    Outcome,
    Policed,
    Resource,
    Settled,
    Snapshot,
    XdsServer,
    address_tables,
)
from ..force.applied import Applied
from ..refusal.blame import ALL, told_in

_LOOK_SECONDS = 1.0  # how often it is asked whether a node is still there
_WHO_IS_WHO = frozenset(TABLES.values())


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

    @property
    def unexpressed(self) -> tuple[tuple[RuleOrigin, str], ...]:
        return tuple(self.http.refused.items())


class RemoteApplier:
    """Applies one world after the other; the caller never starts two at once."""

    def __init__(self, node: str, xds: XdsServer) -> None:
        self._node = node
        self._xds = xds
        self._compiler = NodeCompiler()
        self._told: _Told | None = None  # what it took up last, or will find when it comes
        self._tables: tuple[Mapping[IPNetwork, int], frozenset[IPAddress], tuple[Resource, ...]] | None = None
        self._revision = 0  # that was published last
        self._answer = Outcome.NO_CLIENT  # to that

    async def apply(self, world: World) -> Applied:
        """Brings `world` into force there. Unconfirmed when no Envoy is there: it finds the last step when it comes."""
        final, steps = await asyncio.to_thread(self._steps, world)
        offered = await self._ask(steps[0])
        if nacks := _about_policies(offered):
            return Applied(nacks, unexpressed=final.unexpressed)
        for step in steps[1:]:
            if not offered.acked:
                break
            offered = await self._ask(step)
        if offered.outcome is Outcome.NACKED:  # not by what a policy says: it took that in the first step
            refused = f"remote node {self._node} refuses who is who, and keeps what it had: {offered.text}"
            return Applied(unexpressed=final.unexpressed, problems=(refused,))
        if not offered.acked:  # there is nothing to get over for an Envoy that is away
            self._revision = await self._xds.publish(steps[-1], self._node)
        self._told = final
        return Applied(unconfirmed=not offered.acked, unexpressed=final.unexpressed)

    async def offer(self, world: World) -> Applied:
        """Shows it the policies of `world`, with the addresses that it knows. `apply` is owed."""
        final, steps = await asyncio.to_thread(self._steps, world)
        offered = await self._ask(steps[0])
        gone = offered.outcome is Outcome.NO_CLIENT
        return Applied(_about_policies(offered), unconfirmed=gone, unexpressed=final.unexpressed)

    def told(self, world: World, resources: Collection[str] = ALL) -> frozenset[PolicyKey]:
        """The policies that go into these resources."""
        return told_in(world, filter(self._is_here, world.endpoints), resources)

    async def need(self, world: World) -> Need:
        """Nothing: there are no maps of ours."""
        return Need({}, {})

    async def news(self) -> bool:
        """True when Envoy answers otherwise to what was published last than when it was published: one that was away
        has come, or there is another one now."""
        if not self._revision:
            return False
        now = (await self._xds.settled(self._revision, 0.0, self._node)).outcome
        return now in (Outcome.ACKED, Outcome.NACKED) and now is not self._answer

    async def _ask(self, snapshot: Snapshot) -> Settled:
        """Publishes it, and waits for the answer as long as Envoy is there."""
        self._revision = await self._xds.publish(snapshot, self._node)
        answer = await self._xds.settled(self._revision, 0.0, self._node)
        while answer.outcome is Outcome.TIMEOUT:
            answer = await self._xds.settled(self._revision, _LOOK_SECONDS, self._node)
        self._answer = answer.outcome
        return answer

    def _steps(self, world: World) -> tuple[_Told, Sequence[Snapshot]]:
        """What to publish, one after the other: policies of the new world also for who leaves, then who is who, then
        the policies alone. At every step an address has an identity of which Envoy has been told."""
        enforced = [(each, world.policy_of(each)) for each in world.endpoints if self._is_here(each)]
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

    def _is_here(self, endpoint: Endpoint) -> bool:
        return endpoint.workload.node == self._node

    def _address_tables(self, ipcache: Mapping[IPNetwork, int], own: frozenset[IPAddress]) -> tuple[Resource, ...]:
        """Most changes of policies leave them as they are."""
        if self._tables is None or self._tables[:2] != (ipcache, own):
            self._tables = (ipcache, own, address_tables(ipcache, own))
        return self._tables[2]


def _about_policies(answer: Settled) -> Mapping[str, str]:
    """Envoy's texts by resource, without those that no policy can be to blame for."""
    return MappingProxyType({name: text for (_, name), text in answer.errors if name not in _WHO_IS_WHO})
