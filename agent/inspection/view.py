"""What the agent knows about its node, as the local API shows it. JSON types throughout."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from ...envoy.running.process import Phase
from ...policies import Policy, PolicyKey
from ...policies.endpoint_policy import DirectionPolicy
from ...policies.errors import FlowError
from ...policies.explain import explain
from ...policies.flow import Flow
from ...policies.workload import Endpoint
from ...redirect.errors import RedirectError
from ...redirect.map_changes import Table
from ...redirect.plan import is_group
from ...xds import CertificateFiles, ClientStatus, XdsServer
from ..force.effect import Name
from ..force.effect_watch import Effect
from ..force.kernel_side import Kernel
from ..force.pod_guard import CutOff
from ..refusal.containment import Refusal
from ..refusal.overfull import Overfull
from . import xds_view
from .api import NoSuchPolicyError
from .node_state import NodeState

_RENEWAL = timedelta(days=7)  # before the end of a certificate it becomes a problem


class NodeView:
    """Implements `api.View`."""

    def __init__(self, state: NodeState, kernel: Callable[[], Awaitable[Kernel]], xds: XdsServer) -> None:
        self._state = state
        self._ask_kernel = kernel
        self._seen = Kernel(frozenset(), {}, ())
        self._xds = xds

    async def status(self) -> dict[str, Any]:
        """The whole node; `ok` is what `lockgate status` exits by."""
        kernel = await self._kernel()
        state = self._state
        envoy = state.envoy
        xds = await self.xds()
        problems = self._problems()
        running = envoy is not None and envoy.phase is Phase.RUNNING
        own = [entry for entry in xds if not entry["remote"]]  # whatever a remote node does, this one may be ready
        synced = bool(own) and all(entry["state"] == "SYNCED" for entry in own)
        ready = state.world is not None and running and synced
        return {
            "ok": ready and not problems,
            "agent": {
                "state": "starting" if state.world is None else "ready" if ready and not problems else "degraded",
                "pid": os.getpid(),
                "up_seconds": round(time.monotonic() - state.started, 1),
                "revision": state.revision,
                "run_dir": str(state.settings.run_dir),
            },
            "envoy": {
                "state": str(envoy.phase) if envoy else "unknown",
                "sentence": envoy.sentence if envoy else "unknown",
                "version": envoy.version if envoy else "",
                "pid": envoy.envoy_pid if envoy else None,
                "restarts": envoy.restarts if envoy else 0,
                "last_exit": envoy.last_exit if envoy else "",
                "hangs": envoy.hangs if envoy else 0,
            },
            "xds": xds,
            "policies": {
                "enforced": len(state.intake.policies),
                "stale": len(state.intake.stale),
                "nacked": len(set(state.refusals).union(*self._refused_elsewhere.values())),
                "overfull": len(state.overfull),
                "nacked_by_node": {node: len(refused) for node, refused in self._refused_elsewhere.items()},
                "problems": sum(problem.is_error for problem in state.intake.problems),
            },
            "endpoints": {
                "local": sum(endpoint.local for endpoint in state.discovery.endpoints),
                "known": len(state.discovery.endpoints),
            },
            "datapath": {
                "attached": sum(not is_group(each) for each in kernel.attached),
                "groups": sum(map(is_group, kernel.attached)),
                "uplinks": len(kernel.uplinks),
                "policy_entries": kernel.sizes.get("policy", 0),
                "dropped": sum(counter.packets for counter in kernel.counters if counter.dropped),
            },
            "services": _services(state.services()),
            "problems": problems,
            "notes": list(state.bridge_notes()),
        }

    async def _kernel(self) -> Kernel:
        """As it was seen last, when it cannot be looked at: `hold_problem` says so."""
        with suppress(RedirectError):
            self._seen = await self._ask_kernel()
        return self._seen

    async def services(self) -> list[dict[str, Any]]:
        """Every address of a service with its backends."""
        return self._state.services()

    async def endpoints(self) -> list[dict[str, Any]]:
        """Every known workload."""
        world = self._state.world
        answer = []
        for endpoint in world.endpoints if world else ():
            policy = world.policy_of(endpoint) if world and endpoint.local else None
            answer.append(
                {
                    "endpoint": endpoint.key,
                    "id": endpoint.ifindex,
                    "identity": endpoint.identity,
                    "interface": endpoint.interface,
                    "cgroup": endpoint.workload.cgroup or "",
                    "ips": [str(ip) for ip in endpoint.ips],
                    "labels": [str(label) for label in world.identities[endpoint.identity]] if world else [],
                    "ingress": _enforcement(policy.ingress) if policy else _elsewhere(endpoint),
                    "egress": _enforcement(policy.egress) if policy else _elsewhere(endpoint),
                }
            )
        return answer

    async def identities(self) -> list[dict[str, Any]]:
        """Every identity with its labels and the prefixes that have it."""
        world = self._state.world
        if world is None:
            return []
        prefixes: dict[int, list[str]] = {}
        for prefix, identity in world.ipcache.items():
            prefixes.setdefault(identity, []).append(str(prefix))
        return [
            {"identity": number, "labels": [str(label) for label in labels], "prefixes": prefixes.get(number, [])}
            for number, labels in sorted(world.identities.items())
        ]

    async def policies(self) -> list[dict[str, Any]]:
        """Every policy that was read, also the refused ones."""
        state = self._state
        entries = [self._policy(policy) for policy in state.intake.policies]
        known = {policy.key for policy in state.intake.policies}
        for source, file in state.intake.files.items():
            entries += [
                {
                    "policy": str(key),
                    "kind": str(key.kind),
                    "source": source,
                    "state": "refused",
                    "revision": 0,
                    "endpoints": [],
                    "problems": [str(problem) for problem in file.parsed.problems if problem.is_error],
                    "nack": None,
                    "no_room": None,
                    "remote_nacks": {},
                }
                for key in sorted(file.parsed.broken - known)
            ]
        return entries

    async def policy(self, name: str) -> dict[str, Any]:
        """One policy by namespace/name, or by its name alone where that is unique.

        Raises:
            NoSuchPolicyError: none or several have that name.
        """
        entries = await self.policies()
        found = [entry for entry in entries if entry["policy"] == name]
        found = found or [entry for entry in entries if entry["policy"].rpartition("/")[2] == name]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(entry["policy"] for entry in found)
            raise NoSuchPolicyError(f"several policies are called {name}: {names}; give one of these names")
        raise NoSuchPolicyError(f"no policy is called {name}; 'lockgate policy list' shows all")

    async def xds(self) -> list[dict[str, Any]]:
        """Per node and resource type; one line without a type for a remote node that is not connected."""
        state = self._state
        remote = state.remote.names if state.remote is not None else ()
        refused = {**self._refused_elsewhere, "": state.refusals}
        return xds_view.rows(self._xds.status().clients, remote, refused, self._in_force)

    def _in_force(self, client: ClientStatus, type_url: str, name: str) -> str | None:
        """The version that this client's Envoy said it has, when it was last asked."""
        effect: Effect | None = self._state.effect if client.node == self._state.node else Effect()
        if client.remote:
            effect = self._state.remote.effects.get(client.node) if self._state.remote is not None else None
        if effect is None:
            return "not asked"
        found = effect.in_force.get(Name(type_url, name))
        return found.version if found is not None else None

    async def dns(self) -> dict[str, Any]:
        """What the DNS proxy did, and the names it has seen."""
        return self._state.dns()

    async def explain(self, flow: Flow) -> dict[str, Any]:
        """What the policies in force say of a flow, by the one verdict function, and of who is cut off besides. Raises
        FlowError."""
        world = self._state.world
        if world is None:
            raise FlowError("no policies are in force yet; ask again in a moment")
        return explain(world, flow, self._state.closed()).to_json()

    async def datapath(self) -> dict[str, Any]:
        """Interfaces, map sizes, counters."""
        kernel = await self._kernel()
        endpoints = self._state.world.endpoints if self._state.world else ()
        policed = [each for each in endpoints if each.ifindex in kernel.attached]
        return {
            "pin_dir": str(self._state.settings.pin_dir),
            "interfaces": [each.interface for each in policed if not each.of_node],
            "groups": [each.workload.cgroup for each in policed if each.of_node],
            "uplinks": sorted(map(_interface, kernel.uplinks)),
            "bridges": sorted(map(_interface, kernel.bridges)),
            "newcomers": {"mute": kernel.newcomers is not None, "dropped": kernel.newcomers or 0},
            "unseen_pods": _unseen(kernel.unseen),
            "host_routing": {
                "on": kernel.far_ends is not None,
                "interfaces": sorted(map(_interface, kernel.far_ends or ())),
            },
            "maps": dict(kernel.sizes),
            "room": dict(kernel.room),
            "wanted": _wanted(self._state.overfull.values()),
            "counters": [
                {
                    "direction": str(counter.direction),
                    "reason": counter.reason.name.lower().replace("_", "-"),
                    "meaning": counter.reason.text,
                    "dropped": counter.dropped,
                    "packets": counter.packets,
                }
                for counter in kernel.counters
            ],
        }

    def _policy(self, policy: Policy) -> dict[str, Any]:
        state = self._state
        file = state.intake.files[policy.source]
        problems = [str(problem) for problem in file.parsed.problems if problem.is_error]
        stale = policy.key in state.intake.stale
        problems = problems if stale else []
        problems += map(str, state.intake.lacking.get(policy.key, ()))
        problems += [
            reason for origin, reason in state.applied.unexpressed if _is_of(origin.policy, origin.namespace, policy)
        ]
        if state.applied.nack:
            problems.append(f"Envoy refused the last change: {state.applied.nack}")
        refusal = state.refusals.get(policy.key)
        if refusal is not None:
            problems.append(str(refusal))
        overfull = state.overfull.get(policy.key)
        if overfull is not None:
            problems.append(str(overfull))
        elsewhere = {
            node: refused[policy.key] for node, refused in self._refused_elsewhere.items() if policy.key in refused
        }
        problems += map(str, elsewhere.values())
        settled = "no-room" if overfull is not None else "stale" if stale else "enforced"
        if refusal is not None or elsewhere:
            settled = "nack"
        return {
            "policy": str(policy.key),
            "kind": str(policy.key.kind),
            "source": policy.source,
            "state": settled if state.settled or stale else "pending",
            "revision": state.revision,
            "endpoints": list(state.enforced_on.get(policy.key, ())),
            "problems": problems,
            "nack": refusal.to_json() if refusal is not None else None,
            "no_room": overfull.to_json() if overfull is not None else None,
            "remote_nacks": {node: each.to_json() for node, each in elsewhere.items()},
        }

    @property
    def _refused_elsewhere(self) -> Mapping[str, Mapping[PolicyKey, Refusal]]:
        """By remote node."""
        return self._state.remote.refusals if self._state.remote is not None else {}

    def _problems(self) -> list[str]:
        state = self._state
        problems = [str(problem) for problem in state.intake.problems if problem.is_error]
        problems += [f"policy {key} stays enforced in its last good version" for key in sorted(state.intake.stale)]
        problems += map(str, (*state.refusals.values(), *state.overfull.values()))
        problems += [
            f"secret {ref} stays in force in its last good version" for ref in sorted(state.intake.stale_secrets)
        ]
        problems += [str(problem) for lacking in state.intake.lacking.values() for problem in lacking]
        problems += state.discovery.problems
        problems += state.applied.problems
        problems += {state.silence(), state.applied.unspared} - {"", *state.applied.problems}
        if state.envoy is not None and (state.envoy.silent is not None or state.envoy.supervisor_idle):
            problems.append(f"Envoy: {state.envoy.sentence}")
        problems += map(str, state.effect.drifts)
        problems += filter(None, (state.envoy_problem, state.deafness(), state.hold_problem))
        problems += state.uplink_problems
        problems += state.bridge_problems()
        problems += state.service_problems()
        if state.memory_problem:
            problems.append(state.memory_problem)
        if problem := state.names_problem():
            problems.append(problem)
        if problem := _certificate_problem(state.certificates):
            problems.append(problem)
        if state.remote is not None:
            problems += state.remote.problems(state.intake.workloads)
        problems += [f"{origin}: {reason}" for origin, reason in state.applied.unexpressed]
        if state.applied.nack:
            stays = "" if state.silence() else ", the policies before it stay enforced"
            problems.append(f"Envoy refused the last change{stays}: {state.applied.nack}")
        return problems


def _services(listed: list[dict[str, Any]]) -> dict[str, int]:
    backends = [backend for each in listed for backend in each["backends"]]
    return {
        "addresses": len(listed),
        "backends": len(backends),
        "serving": sum(backend["serves"] for backend in backends),
    }


def _certificate_problem(files: CertificateFiles | None) -> str:
    """What is wrong with what remote Envoys are shown, or will be soon."""
    if files is None:
        return ""
    files.renewed()
    left = files.used.expires - datetime.now(UTC)
    if files.problem or left > _RENEWAL:
        return files.problem
    until = f"{files.used.expires:%Y-%m-%d %H:%M}Z"
    return f"the certificate for remote nodes is valid until {until}: put another in its place"


def _unseen(pods: CutOff | None) -> dict[str, Any]:
    return {
        "cut_off": pods is not None and pods.dropped is not None,
        "prefixes": list(pods.prefixes) if pods is not None else [],
        "interfaces": list(pods.interfaces) if pods is not None else [],
        "dropped": (pods.dropped if pods is not None else None) or 0,
    }


def _wanted(overfull: Iterable[Overfull]) -> dict[str, int]:
    """By map, the entries that policies want and there is no room for."""
    found = {table.value: 0 for table in Table}
    for each in overfull:
        found[each.table.value] += each.wants
    return found


def _interface(ifindex: int) -> str:
    try:
        return socket.if_indextoname(ifindex)
    except OSError:  # it went in this moment
        return str(ifindex)


def _is_of(name: str, namespace: str, policy: Policy) -> bool:
    return (namespace, name) == (policy.key.namespace, policy.key.name)


def _elsewhere(endpoint: Endpoint) -> str:
    return f"on {endpoint.workload.node}" if endpoint.workload.node else "elsewhere"


def _enforcement(policy: DirectionPolicy) -> str:
    if not policy.default_deny and not policy.rules:
        return "open"
    return "L7" if policy.redirects else "L4"
