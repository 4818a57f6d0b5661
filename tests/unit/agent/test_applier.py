"""The order in which a world comes into force. Envoy and the kernel are recorded here: the real ones cannot be stopped
between two steps (that each step works is tested end to end)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.agent.force import applier as module
from lockgate.agent.force.applier import Applied, Applier
from lockgate.agent.force.kafka_side import KafkaSide
from lockgate.agent.force.tls_side import TlsSide
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.kafka_listener import KafkaListener
from lockgate.envoy.config.tls_listener import TlsListener
from lockgate.policies import World, parse_policies
from lockgate.policies.endpoint_policy import Direction
from lockgate.policies.identity import IPNetwork, endpoint_of
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.datapath import Datapath, Held
from lockgate.redirect.errors import BpfUnsupportedError, EndpointUnreachableError, MapFullError
from lockgate.redirect.map_changes import MapDelta
from lockgate.redirect.plan import DatapathPlan, Owner, Verdict
from lockgate.redirect.proxy_sockets import Carried
from lockgate.tests.unit.agent.test_http_side import spared
from lockgate.xds import ROUTE, Outcome, Settled, Snapshot, XdsServer, policed_by

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
        ended = sorted(connections, key=lambda each: each.number)
        self.events.append(f"end {' '.join(each.number.decode() for each in ended)}")
        self.carries.difference_update(ended)
        return len(ended)

    def attached(self) -> frozenset[int]:
        return frozenset(self.interfaces)

    def uplinks(self) -> frozenset[int]:
        return frozenset()

    def held(self) -> Held:
        return Held(self.attached(), self.uplinks())

    def sizes(self) -> dict[str, int]:
        return {"policy": len(self.plan.policy)}

    def newcomers_dropped(self) -> None:
        return None

    def counters(self) -> tuple[()]:
        return ()

    def proxy_ports(self) -> set[int]:
        """Where the kernel sends what it redirects."""
        return {effect.proxy_port for effect in self.plan.policy.values() if effect.verdict is Verdict.REDIRECT}


@pytest.fixture
def node() -> Recorded:
    return Recorded()


@pytest.fixture
def applier(node: Recorded, monkeypatch: pytest.MonkeyPatch) -> Applier:
    monkeypatch.setattr(module, "ACK_SECONDS", 0.0)
    return Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: node.envoy_runs, TLS, KAFKA)


def world(policy: str = "", local: Iterable[int] = (7, 8)) -> World:
    """A client and a server, at these interfaces."""
    endpoints = []
    for number, (name, ifindex) in enumerate(zip(("client", "server"), local, strict=False), start=1):
        workload = Workload(name, "default", (("app", name),), ips=(ip_address(f"10.0.0.{number}"),))
        endpoints.append(replace(endpoint_of(workload), ifindex=ifindex, interface=f"veth{ifindex}"))
    return World.of(parse_policies(policy.encode(), "p.yaml").policies if policy else (), endpoints)


async def test_envoy_first_then_maps_then_programs_then_what_envoy_no_longer_needs(
    node: Recorded, applier: Applier
) -> None:
    assert await applier.apply(world(L7)) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8", "publish"]
    assert node.proxy_ports() == {HTTP_PORT}


async def test_of_a_kernel_that_redirects_nothing_yet_nothing_is_trimmed(node: Recorded) -> None:
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    assert await first.apply(world(L7)) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8"]


async def test_what_the_kernel_may_have_of_a_failed_change_stays_with_envoy(node: Recorded) -> None:
    """It may redirect to Envoy what the next change would let pass there."""
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    node.full = True
    with pytest.raises(MapFullError):
        await first.apply(world(L7))
    node.full, node.events = False, []
    assert await first.apply(world()) == Applied()
    assert node.events == ["publish", "wait", "maps", "attach 7", "attach 8", "publish"]


async def test_nothing_is_trimmed_when_nothing_can_be(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    await applier.apply(world(L7))
    assert node.events == ["publish", "wait", "maps"]


async def test_the_last_l7_rule_leaves_the_kernel_before_it_leaves_envoy(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    await applier.apply(world(L4))
    assert node.events == ["publish", "wait", "maps", "publish"]
    assert node.proxy_ports() == set()


async def test_an_endpoint_is_mute_until_a_world_that_has_it_is_in_force(node: Recorded, applier: Applier) -> None:
    """Also when Envoy refuses what comes with it."""
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    await applier.mute(world(L7).endpoints)
    assert (await applier.apply(world(L7))).nacks
    assert node.events == ["attach 7", "attach 8", "publish", "wait"]
    assert not node.plan.endpoints
    await applier.mute(world(L7).endpoints)
    assert node.events[-1] == "wait", "once is enough"
    node.unreachable = {9}
    await applier.mute(world(L7, local=(7, 8, 9)).endpoints)


async def test_of_many_refusals_a_few_are_told(node: Recorded, applier: Applier) -> None:
    """One policy may be in the shards of many endpoints."""
    node.answers = [Settled(Outcome.NACKED, tuple((("type", f"shard.{n}"), "no") for n in range(5)))]
    assert (await applier.apply(world(L7))).nack == "shard.0: no; shard.1: no; shard.2: no; and 2 more"


async def test_what_envoy_refuses_never_reaches_the_kernel(node: Recorded, applier: Applier) -> None:
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    applied = await applier.apply(world(L7))
    assert applied.nack == "lockgate.http.ingress: no such matcher"
    assert node.events == ["publish", "wait"]


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.NO_CLIENT])
async def test_what_a_living_envoy_has_not_confirmed_never_reaches_the_kernel(
    node: Recorded, applier: Applier, outcome: Outcome
) -> None:
    node.answers = [Settled(outcome)]
    applied = await applier.apply(world(L7))
    assert applied.unconfirmed
    assert applied.problems == ("Envoy runs, but has not answered to the last change yet",)
    assert "maps" not in node.events


async def test_a_slow_envoy_is_waited_for(node: Recorded, applier: Applier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ACK_SECONDS", 60.0)
    node.answers = [Settled(Outcome.NO_CLIENT), Settled(Outcome.TIMEOUT), Settled(Outcome.ACKED)]
    assert await applier.apply(world(L7)) == Applied()
    assert node.events[:5] == ["publish", "wait", "wait", "wait", "maps"]


async def test_without_envoy_l4_comes_into_force_and_l7_is_dropped(node: Recorded, applier: Applier) -> None:
    node.envoy_runs, node.answers = False, [Settled(Outcome.NO_CLIENT)]
    applied = await applier.apply(world(L7))
    assert applied.unconfirmed, "it is tried again"
    assert applied.problems == ("Envoy is down: L7 is dropped",)
    assert node.proxy_ports() == {0}
    node.envoy_runs, node.answers = True, [Settled(Outcome.ACKED)]
    assert await applier.apply(world(L7)) == Applied()
    assert node.proxy_ports() == {HTTP_PORT}


async def test_an_endpoint_that_cannot_be_policed_does_not_hold_up_the_others(node: Recorded, applier: Applier) -> None:
    node.unreachable = {7}
    applied = await applier.apply(world(L4))
    assert applied.problems == ("endpoint default/client is not enforced: interface 7 does not exist",)
    assert node.interfaces == {8}


async def test_endpoints_that_are_gone_are_let_go_of_last(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L4, local=(7, 8)))
    node.events.clear()
    await applier.apply(world(L4, local=(9,)))
    assert node.events[:4] == ["publish", "wait", "maps", "attach 9"]
    assert sorted(node.events[4:6]) == ["detach 7", "detach 8"]
    assert node.events[6:] == ["publish"]  # Envoy keeps the identities that left until the kernel no longer says them


CLIENT_L7 = L7.replace("app: server", "app: client").replace("ingress:", "egress:").replace("policy,", "client,")
WORLDS = ("", L4, L7, CLIENT_L7, f"{L4}---{CLIENT_L7}", f"{L7}---{CLIENT_L7}")


def policed(of: World) -> frozenset[tuple[int, Direction]]:
    """Who has a policy for Envoy in this world."""
    return policed_by((each, of.policy_of(each)) for each in of.endpoints)


def spared_in(snapshot: Snapshot) -> set[tuple[int, Direction]]:
    return {(identity, direction) for direction, found in spared(snapshot).items() for identity in found}


async def test_an_end_is_judged_from_before_its_policy_is_in_force_until_after_it_has_gone(
    node: Recorded, applier: Applier
) -> None:
    """What is not known of an earlier agent's kernel counts as a policy of everybody's."""
    client = next(each.identity for each in world().endpoints if each.workload.name == "client")
    egress = (client, Direction.EGRESS)
    judged = {}
    for name, policy in (
        ("none", L7),
        ("comes", f"{L7}---{CLIENT_L7}"),
        ("stays", f"{L7}---{CLIENT_L7}"),
        ("goes", L7),
    ):
        node.published.clear()
        assert await applier.apply(world(policy)) == Applied()
        judged[name] = [egress not in spared_in(each) for each in node.published]
    assert judged == {"none": [True, False], "comes": [True], "stays": [True], "goes": [True, False]}


async def test_a_refused_policy_changes_nobody_who_is_judged_by_one_in_force(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    node.answers = [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no such matcher"),))]
    for policy in ("", L7, CLIENT_L7):
        assert (await applier.apply(world(policy))).nacks
        assert not policed(world(f"{L7}---{CLIENT_L7}")) & spared_in(node.published[-1])


async def test_refused_routes_hold_up_nothing_and_spare_nobody(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    node.answers = [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "too large"),)), Settled(Outcome.ACKED)]
    applied = await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    assert node.events == ["publish", "wait", "publish", "wait", "maps"]
    assert not spared_in(node.published[-1])
    assert not applied.nacks and not applied.problems, "nothing has to be tried again"
    assert "too large" in applied.unspared
    assert node.proxy_ports() == {HTTP_PORT}
    assert (await applier.apply(world(L7))).unspared == ""


async def test_when_envoy_refuses_any_routes_the_change_ends(node: Recorded, applier: Applier) -> None:
    await applier.apply(world(L7))
    node.events.clear()
    node.answers = [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "no routes at all"),))]
    applied = await applier.apply(world(f"{L7}---{CLIENT_L7}"))
    assert applied.nack == f"{ROUTES}: no routes at all"
    assert "maps" not in node.events


STEPS = st.lists(
    st.tuples(
        st.sampled_from(WORLDS),
        st.sampled_from([(7, 8), (7,), ()]),
        st.sampled_from(["acked", "refused", "routes refused", "silent", "envoy down", "map full"]),
    ),
    min_size=1,
    max_size=8,
)


@given(STEPS)
@settings(max_examples=60, deadline=None)
def test_whatever_happens_nobody_is_spared_a_policy_that_is_in_force(
    steps: list[tuple[str, tuple[int, ...], str]],
) -> None:
    """Envoy may be at what was published last or, while it has not answered, at what it was before. Those whose policy
    the kernel has or is about to have are judged in both."""

    async def run() -> None:
        node = Recorded()
        applier = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: node.envoy_runs, TLS, KAFKA)
        for policy, local, what in steps:
            wanted = world(policy, local)
            node.envoy_runs, node.full = what != "envoy down", what == "map full"
            node.answers = {
                "refused": [Settled(Outcome.NACKED, ((("type", "lockgate.http.ingress"), "no"),))],
                "routes refused": [Settled(Outcome.NACKED, (((ROUTE, ROUTES), "no"),)), Settled(Outcome.ACKED)],
                "silent": [Settled(Outcome.TIMEOUT)],
                "envoy down": [Settled(Outcome.NO_CLIENT)],
            }.get(what, [Settled(Outcome.ACKED)])
            before = applier.world
            node.published = node.published[-1:]

            def judged(wanted: World = wanted) -> None:
                assert not policed(wanted) & spared_in(node.published[-1])

            node.before_maps = judged
            with suppress(MapFullError):
                await applier.apply(wanted)
            in_force = applier.world
            for snapshot in node.published[-2:] if in_force is before else node.published[-1:]:
                assert in_force is None or not policed(in_force) & spared_in(snapshot)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ACK_SECONDS", 0.0)
        asyncio.run(run())


def carried() -> set[Carried]:
    """Each of the two pods asks the other for something."""
    client, server = map(ip_address, ("10.0.0.1", "10.0.0.2"))
    return {
        Carried(client, 40000, server, 80, True, 2, b"client's"),
        Carried(server, 50000, client, 80, True, 2, b"server's"),
    }


async def test_what_is_carried_for_an_address_in_other_hands_is_ended_when_the_kernel_knows_better(
    node: Recorded, applier: Applier
) -> None:
    before = world(L4)
    await applier.apply(before)
    node.events.clear()
    node.carries = carried()
    await applier.apply(World.of(before.policies, before.endpoints))
    assert node.events == ["publish", "wait", "maps"]
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    await applier.apply(World.of(before.policies, [relabelled, server]))
    assert node.events[3:] == ["publish", "wait", "maps", "end client's server's", "publish"]
    node.events.clear()
    node.carries = carried()
    await applier.apply(World.of(before.policies, [relabelled]))
    assert node.events[:4] == ["publish", "wait", "maps", "end client's server's"]


async def test_what_could_not_be_ended_is_a_problem_and_tried_again(node: Recorded, applier: Applier) -> None:
    before = world(L4)
    await applier.apply(before)
    node.carries, node.unable = carried(), True
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    after = World.of(before.policies, [relabelled, server])
    for _ in range(2):
        (problem,) = (await applier.apply(after)).problems
        assert "go on as they were made: the kernel cannot" in problem
    node.unable = False
    assert await applier.apply(after) == Applied()
    assert node.events[-1] == "end client's server's" and not node.carries
    node.events.clear()
    assert await applier.apply(after) == Applied()
    assert node.events == ["publish", "wait", "maps"]


async def test_an_earlier_agents_connections_are_who_the_kernel_says_made_them(
    node: Recorded, applier: Applier
) -> None:
    now = world(L4)
    first = Applier(cast(Datapath, node), cast(XdsServer, node), HTTP_PORT, lambda: True, TLS, KAFKA, redirecting=False)
    await first.apply(now)
    client, server = (endpoint.identity for endpoint in now.endpoints)
    mine, others = sorted(carried(), key=lambda each: each.number)
    node.carries = {mine, others}
    node.made = {mine: (client, server), others: (4711 << 8, client)}
    await applier.apply(now)
    assert node.carries == {mine} and "end server's" in node.events
    node.made[mine] = node.made[others]
    await applier.apply(now)
    assert node.carries == {mine}, "the kernel is asked once: from then on this agent knows"


NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: client}}
  egress:
  - toFQDNs: [{matchName: one.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /one}]}}]
  - toFQDNs: [{matchName: two.example}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {RULES}}]
"""


@pytest.mark.parametrize(("rules", "ends"), [("{http: [{path: /two}]}", False), ("{kafka: [{role: produce}]}", True)])
async def test_an_answer_that_shows_another_name_ends_what_it_forbids(
    node: Recorded, applier: Applier, rules: str, ends: bool
) -> None:
    """Both names together mean two proxies for one port, or more requests that are allowed."""
    address, other = ip_address("192.0.2.1"), ip_address("192.0.2.2")
    (one, two) = (frozenset({"one.example"}), frozenset({"two.example"}))
    policies = parse_policies(NAMES.replace("{RULES}", rules).encode(), "p.yaml").policies
    names = {"one.example": frozenset({address, other}), "two.example": frozenset({other})}
    await applier.apply(World.of(policies, world().endpoints, names=names))
    kept = Carried(ip_address("10.0.0.1"), 40000, other, 80, True, 2, b"kept")
    over = Carried(ip_address("10.0.0.1"), 40001, address, 80, True, 2, b"over")
    node.carries = {kept, over}
    node.events.clear()
    assert await applier.readdress({address: one | two})
    assert node.events == ["addresses", *(["end over"] if ends else [])]


async def test_a_change_that_was_written_in_part_is_not_forgotten(node: Recorded, applier: Applier) -> None:
    """The maps may hold new addresses when a retry begins."""
    before = world(L4)
    await applier.apply(before)
    node.carries = carried()
    client, server = before.endpoints
    relabelled = replace(client, workload=replace(client.workload, labels=(("app", "other"),)))
    after = World.of(before.policies, [relabelled, server])
    apply = node.apply

    def half(plan: DatapathPlan) -> None:
        apply(plan)
        raise MapFullError("the policy map is full")

    cast(Any, node).apply = half
    with pytest.raises(MapFullError):
        await applier.apply(after)
    cast(Any, node).apply = apply
    await applier.apply(after)
    assert "end client's server's" in node.events


async def test_a_refusal_of_the_kernel_reaches_the_caller(node: Recorded, applier: Applier) -> None:
    node.full = True
    with pytest.raises(MapFullError):
        await applier.apply(world(L4))


async def test_looks_into_the_kernel_wait_for_their_turn(node: Recorded, applier: Applier) -> None:
    entered, go_on = threading.Event(), threading.Event()
    apply = node.apply

    def slow(plan: DatapathPlan) -> None:
        entered.set()
        assert go_on.wait(10)
        apply(plan)

    cast(Any, node).apply = slow
    applying = asyncio.create_task(applier.apply(world(L4)))
    await asyncio.to_thread(entered.wait, 10)
    look = asyncio.create_task(applier.kernel())
    await asyncio.sleep(0)
    assert not look.done()
    go_on.set()
    await applying
    assert (await look).attached == {7, 8}


async def test_an_agent_that_ends_waits_for_the_kernel(node: Recorded, applier: Applier) -> None:
    """Nothing is closed under a thread that still writes."""
    entered, go_on = threading.Event(), threading.Event()
    apply = node.apply

    def slow(plan: DatapathPlan) -> None:
        entered.set()
        assert go_on.wait(10)
        apply(plan)

    cast(Any, node).apply = slow
    applying = asyncio.create_task(applier.apply(world(L4)))
    await asyncio.to_thread(entered.wait, 10)
    applying.cancel()
    await asyncio.sleep(0)
    assert not applying.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await applying
    assert node.events[-1] == "attach 8", "it was done to its end"
