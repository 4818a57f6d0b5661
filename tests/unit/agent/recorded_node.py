"""Both halves of a data plane, recorded: real ones cannot be stopped between two steps of a change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from lockgate.agent.force.kafka_side import KafkaSide
from lockgate.agent.force.tls_side import TlsSide
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.kafka_listener import KafkaListener
from lockgate.envoy.config.tls_listener import TlsListener
from lockgate.policies import EndpointPolicy, World, parse_policies
from lockgate.policies.identity import IPNetwork, endpoint_of
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.errors import BpfUnsupportedError, EndpointUnreachableError, MapFullError
from lockgate.redirect.map_changes import MapDelta, Table
from lockgate.redirect.plan import DatapathPlan, Owner, Verdict
from lockgate.redirect.program_links import Held
from lockgate.redirect.proxy_sockets import Carried
from lockgate.redirect.room import Need, is_ample, need
from lockgate.redirect.socket_diag import FoundSocket
from lockgate.redirect.strangers import Strangers
from lockgate.xds import Outcome, Settled, Snapshot

L4 = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: policy, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}]
"""
L7 = L4.replace("protocol: TCP}]", "protocol: TCP}], rules: {http: [{path: /}]}")
HTTP_PORT = 15001
IPCACHE = Ipcache(Path("/sys/fs/bpf/lockgate/maps/ipcache"), 7, 8)
TLS = TlsSide(TlsListener(), Path("/run/lockgate/requests.jsonl"), IPCACHE)
KAFKA = KafkaSide(KafkaListener(), Path("/run/lockgate/requests.jsonl"), IPCACHE)


class Recorded:
    """Both halves of the data plane: `events` is what was done to them, `answers` Envoy's (the last one stays)."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.revision = 0
        self.answers = [Settled(Outcome.ACKED)]
        self.envoy_runs = True
        self.interfaces: set[int] = set()
        self.unreachable: set[int] = set()
        self.full = False
        self.carries: set[Carried] = set()
        self.made: dict[Carried, tuple[int, int]] = {}
        self.unable = False
        self.plan = DatapathPlan({}, {}, {})
        self.before_maps: Callable[[], None] = lambda: None
        self.published: list[Snapshot] = []
        self._busy = threading.Lock()

    async def publish(self, snapshot: Snapshot) -> int:
        self.events.append("publish")
        self.published.append(snapshot)
        self.revision += 1
        return self.revision

    async def settled(self, revision: int, _: float) -> Settled:
        await asyncio.sleep(0)
        assert revision == self.revision
        self.events.append("wait")
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def apply(self, plan: DatapathPlan) -> None:
        assert self._busy.acquire(blocking=False), "two at once"
        if self.full:
            self._busy.release()
            raise MapFullError("the policy map is full")
        self.before_maps()
        self.events.append("maps")
        self.plan = plan
        self._busy.release()

    def need(self, plan: DatapathPlan) -> Need:
        return need(self.plan, plan, self.room)

    def has_ample_room(self, policies: Sequence[EndpointPolicy], addresses: int) -> bool:
        return is_ample(self.plan, policies, addresses, self.room)

    @property
    def room(self) -> dict[Table, int]:
        return dict.fromkeys(Table, 1000)

    def readdress(self, owners: MapDelta[IPNetwork, Owner]) -> None:
        self.events.append("addresses")
        self.plan = replace(self.plan, ipcache={**self.plan.ipcache, **owners.put})

    def attach(self, endpoint: Endpoint) -> None:
        if endpoint.ifindex in self.unreachable:
            raise EndpointUnreachableError(f"interface {endpoint.ifindex} does not exist")
        self.events.append(f"attach {endpoint.ifindex}")
        self.interfaces.add(endpoint.ifindex)

    def detach(self, ifindex: int) -> None:
        self.events.append(f"detach {ifindex}")
        self.interfaces.discard(ifindex)

    @property
    def current(self) -> DatapathPlan:
        return self.plan

    def carried(self) -> tuple[Carried, ...]:
        return tuple(self.carries)

    def made_by(self, connections: Iterable[Carried]) -> dict[Carried, tuple[int, int]]:
        return {each: self.made[each] for each in connections if each in self.made}

    def end_carried(self, connections: Iterable[Carried]) -> int:
        if self.unable:
            raise BpfUnsupportedError("the kernel cannot end connections of others")
        ended = sorted(connections, key=lambda each: each.found.number)
        self.events.append(f"end {' '.join(each.found.number.decode() for each in ended)}")
        self.carries.difference_update(ended)
        return len(ended)

    def attached(self) -> frozenset[int]:
        return frozenset(self.interfaces)

    def touched(self) -> frozenset[int]:
        return self.attached()

    def groups(self) -> frozenset[int]:
        return frozenset()

    def uplinks(self) -> frozenset[int]:
        return frozenset()

    def held(self) -> Held:
        return Held(self.attached(), self.uplinks())

    def sizes(self) -> dict[str, int]:
        return {"policy": len(self.plan.policy)}

    @property
    def strangers(self) -> Strangers:
        return Strangers(Path("/nowhere"), Path("/nowhere"))

    def far_ends(self) -> None:
        return None

    def counters(self) -> tuple[()]:
        return ()

    def proxy_ports(self) -> set[int]:
        """Where the kernel sends what it redirects."""
        return {effect.proxy_port for effect in self.plan.policy.values() if effect.verdict is Verdict.REDIRECT}


def world(policy: str = "", local: Iterable[int] = (7, 8)) -> World:
    """A client and a server, at these interfaces."""
    endpoints = []
    for number, (name, ifindex) in enumerate(zip(("client", "server"), local, strict=False), start=1):
        workload = Workload(name, "default", (("app", name),), ips=(ip_address(f"10.0.0.{number}"),))
        endpoints.append(replace(endpoint_of(workload), ifindex=ifindex, interface=f"veth{ifindex}"))
    return World.of(parse_policies(policy.encode(), "p.yaml").policies if policy else (), endpoints)


def carried() -> set[Carried]:
    """Each of the two pods asks the other for something."""
    client, server = map(ip_address, ("10.0.0.1", "10.0.0.2"))
    return {
        Carried(client, 40000, server, 80, True, FoundSocket(2, b"client's")),
        Carried(server, 50000, client, 80, True, FoundSocket(2, b"server's")),
    }
