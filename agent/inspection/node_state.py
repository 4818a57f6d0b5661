"""The agent's own record of what it did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...envoy.running.process import EnvoyStatus
from ...policies import PolicyKey, World
from ...policies.identity import IPNetwork
from ...xds import CertificateFiles
from ..force.applied import Applied
from ..force.effect_watch import Effect
from ..refusal.containment import Refusal
from ..refusal.overfull import Overfull
from ..remote.nodes import RemoteNodes
from ..settings import Settings
from ..supply.endpoints import Discovery
from ..supply.intake import Intake


@dataclass(slots=True)
class NodeState:
    """Written by the agent, read by the view."""

    settings: Settings
    node: str = ""  # how its Envoy introduces itself
    intake: Intake = field(default_factory=Intake)
    discovery: Discovery = field(default_factory=Discovery)
    world: World | None = None  # in force
    applied: Applied = field(default_factory=Applied)
    revision: int = 0
    envoy: EnvoyStatus | None = None
    envoy_problem: str = ""
    hold_problem: str = ""  # with what the data path hangs on
    memory_problem: str = ""
    uplink_problems: tuple[str, ...] = ()
    bridge_problems: Callable[[], tuple[str, ...]] = tuple
    bridge_notes: Callable[[], tuple[str, ...]] = tuple
    closed: Callable[[], tuple[IPNetwork, ...]] = tuple  # where the kernel knows nobody but endpoints and the node
    dns: Callable[[], dict[str, Any]] = dict
    names_problem: Callable[[], str] = str
    silence: Callable[[], str] = str  # of Envoy, about a change
    deafness: Callable[[], str] = str  # of Envoy, to whatever it is told
    services: Callable[[], list[dict[str, Any]]] = list
    service_problems: Callable[[], tuple[str, ...]] = tuple
    started: float = field(default_factory=time.monotonic)
    refusals: Mapping[PolicyKey, Refusal] = field(default_factory=dict)
    overfull: Mapping[PolicyKey, Overfull] = field(default_factory=dict)
    effect: Effect = field(default_factory=Effect)
    remote: RemoteNodes | None = None
    certificates: CertificateFiles | None = None  # what remote Envoys are shown
    _enforced: tuple[World, dict[PolicyKey, tuple[str, ...]]] | None = None

    @property
    def settled(self) -> bool:
        """True when the last attempt left nothing to be done."""
        return self.world is not None and not self.applied.nack and not self.applied.problems

    @property
    def enforced_on(self) -> dict[PolicyKey, tuple[str, ...]]:
        """The local endpoints that each policy selects; worked out when somebody asks, not with every change."""
        if self.world is None:
            return {}
        if self._enforced is None or self._enforced[0] is not self.world:
            self._enforced = (self.world, _enforced_on(self.world))
        return self._enforced[1]

    def finish(self, world: World, applied: Applied) -> None:
        """What came of applying `world`."""
        self.applied = applied
        if applied.nack or applied.unconfirmed:
            return
        self.revision += 1
        self.world = world


def _enforced_on(world: World) -> dict[PolicyKey, tuple[str, ...]]:
    """Which endpoints of this node and of remote ones each policy selects."""
    found: dict[PolicyKey, list[str]] = {}
    for endpoint in world.endpoints:
        if endpoint.local or endpoint.workload.node:
            for policy in world.policies_of(endpoint):
                found.setdefault(policy.key, []).append(endpoint.key)
    if world.host is not None:
        for policy in world.policies_of(world.host):
            found.setdefault(policy.key, []).append(world.host.workload.name)
    return {key: tuple(endpoints) for key, endpoints in found.items()}
