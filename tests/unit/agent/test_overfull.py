"""Policies that the kernel's maps have no room for hold up no others. The maps are a plan and two numbers here; real
ones are in tests/e2e/test_full_maps.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.agent.errors import StateError
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.change import ChangeMaker
from lockgate.agent.refusal.blame import ALL, told_in
from lockgate.agent.refusal.overfull import Overfull
from lockgate.policies import Policy, PolicyKey, World, parse_policies
from lockgate.policies.identity import endpoint_of
from lockgate.policies.withheld import closed, shut, withheld
from lockgate.policies.workload import Workload
from lockgate.redirect.errors import MapFullError
from lockgate.redirect.map_changes import Table
from lockgate.redirect.plan import DatapathPlan
from lockgate.redirect.planner import Planner
from lockgate.redirect.room import Need, need
from lockgate.tests.unit.agent.test_change import Memory, bad_words, paths
from lockgate.tests.unit.agent.test_change import policy as by_request

HEAD = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: SUBJECT}}
"""


@lru_cache
def policy(name: str, ports: int, subject: str = "server", deny: bool = False, networks: int = 0) -> Policy:
    """Its entries are one for each port, and one more identity for each network."""
    text = HEAD.replace("NAME", name).replace("SUBJECT", subject) + ("  ingressDeny:\n" if deny else "  ingress:\n")
    lowest = 500 if subject == "server" else 5000
    for first in range(0, ports, 40):  # as many as one entry may have
        listed = [
            f"{{port: '{2 * port}', protocol: TCP}}" for port in range(lowest + first, lowest + min(ports, first + 40))
        ]
        text += (
            f"  - fromEndpoints: [{{matchLabels: {{app: client}}}}]\n    toPorts: [{{ports: [{', '.join(listed)}]}}]\n"
        )
    text += "".join(f"  - fromCIDR: [192.0.2.{number}/32]\n" for number in range(networks))
    (parsed,) = parse_policies(text.encode(), f"{name}.yaml").policies
    return parsed


@dataclass
class Kernel:
    """An Applies whose Envoy refuses bad paths."""

    room: dict[Table, int] = field(default_factory=lambda: {Table.POLICY: 60, Table.IPCACHE: 40, Table.ENDPOINTS: 9})
    plan: DatapathPlan = field(default_factory=DatapathPlan)
    world: World | None = None
    counts: int = 0

    def _planned(self, world: World) -> DatapathPlan:
        return Planner().plan([(each, world.policy_of(each)) for each in world.endpoints], world.ipcache)

    async def need(self, world: World) -> Need:
        self.counts += 1
        return need(self.plan, self._planned(world), self.room)

    async def offer(self, world: World) -> Applied:
        text = bad_words(paths(world.policies))
        return Applied({"lockgate.http.ingress": text} if text else {})

    async def apply(self, world: World) -> Applied:
        applied = await self.offer(world)
        if not applied.nacks:
            if (table := (await self.need(world)).lacking) is not None:
                raise MapFullError(table.value)
            self.plan, self.world = self._planned(world), world
        return applied

    def told(self, world: World, resources: Collection[str] = ALL) -> Set[PolicyKey]:
        return told_in(world, world.endpoints, resources)


class Node:
    """An agent's changes, made one after the other."""

    def __init__(self, memory: Memory | None = None) -> None:
        self.kernel = Kernel()
        self.maker = ChangeMaker(self.kernel, memory or Memory())
        self.pods = ["client", "server", "other"]
        self.last: World | None = None

    def _world_of(self, policies: Sequence[Policy]) -> World:
        endpoints = [
            endpoint_of(
                Workload(
                    name,
                    "default",
                    (("app", name.partition("-")[0]), ("name", name)),
                    ips=(ip_address(f"10.0.0.{at}"),),
                )
            )
            for at, name in enumerate(self.pods, start=1)
        ]
        local = [replace(each, ifindex=at) for at, each in enumerate(endpoints, start=7)]
        return World.of(policies, local, previous=self.last)

    async def wants(self, *policies: Policy) -> None:
        world = self._world_of(self.maker.admitted(policies))
        self.last = world
        made = await self.maker.make(world, policies, self._world_of)
        assert made.applied == Applied()
        assert made.world is self.kernel.world

    def enforced(self) -> dict[str, Policy]:
        assert self.kernel.world is not None
        return {policy.key.name: policy for policy in self.kernel.world.policies}

    def held(self) -> dict[str, Overfull]:
        return {key.name: each for key, each in self.maker.overfull.items()}


async def test_one_without_room_holds_up_no_other(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    await node.wants(policy("a", 5), policy("b", 5, "other"))
    with caplog.at_level(logging.ERROR, "lockgate.agent"):
        await node.wants(policy("a", 6), policy("b", 99, "other"), policy("c", 6))
    assert node.enforced() == {"a": policy("a", 6), "b": policy("b", 5, "other"), "c": policy("c", 6)}
    assert [record.getMessage() for record in caplog.records] == [
        "b.yaml:2: policy default/b wants 100 entries of the BPF map policy, which holds 60 and needs 20 for all else "
        "(those in force included, until they go): its last good version stays enforced; use fewer peers or port ranges"
    ]
    assert node.held()["b"].to_json() == {
        "map": "policy",
        "wants": 100,
        "others": 14,
        "room": 60,
        "enforced": "older",
    }
    await node.wants(policy("a", 7), policy("b", 99, "other"))
    assert node.enforced() == {"a": policy("a", 7), "b": policy("b", 5, "other")}, "it stays so whatever comes"


async def test_a_new_one_denies_what_only_it_allows() -> None:
    node = Node()
    await node.wants(policy("a", 5), policy("b", 99, "other"))
    assert node.enforced() == {"a": policy("a", 5), "b": shut(policy("b", 99, "other"))}
    assert node.held()["b"].enforced == "denied"
    await node.wants(policy("a", 5), policy("b", 20, "other"))
    assert node.enforced() == {"a": policy("a", 5), "b": policy("b", 20, "other")}
    assert not node.held()


async def test_denials_without_room_deny_everything_there() -> None:
    node = Node()
    await node.wants(policy("a", 5), policy("b", 99, "other", deny=True))
    assert node.enforced() == {"a": policy("a", 5), "b": closed(policy("b", 99, "other", deny=True))}
    assert node.held()["b"].enforced == "closed"


async def test_what_goes_makes_room_at_once() -> None:
    """Only when it has gone: what is in force counts until then."""
    node = Node()
    await node.wants(policy("a", 40), policy("b", 30, "other"))
    assert node.enforced() == {"a": policy("a", 40), "b": shut(policy("b", 30, "other"))} or node.enforced() == {
        "a": shut(policy("a", 40)),
        "b": policy("b", 30, "other"),
    }
    (held,) = node.held()
    left = policy("a", 40) if held == "a" else policy("b", 30, "other")
    await node.wants(left)
    assert node.enforced() == {held: left}
    assert not node.held()


async def test_networks_have_a_map_of_their_own() -> None:
    node = Node()
    node.kernel.room[Table.POLICY] = 1000
    await node.wants(policy("a", 5), policy("b", 0, "other", networks=35), policy("c", 0, networks=3))
    assert node.enforced()["b"] == shut(policy("b", 0, "other", networks=35))
    assert node.enforced()["c"] == policy("c", 0, networks=3)
    assert node.held()["b"].table is Table.IPCACHE


async def test_pods_that_come_cost_the_largest() -> None:
    """No policy is new: it gives way who asks for most."""
    node = Node()
    wanted = policy("a", 3), policy("b", 15, "other")
    await node.wants(*wanted)
    node.pods += [f"client-{number}" for number in range(3)]
    await node.wants(*wanted)
    assert node.enforced() == {"a": policy("a", 3), "b": shut(policy("b", 15, "other"))}
    assert node.held()["b"].remembered == policy("b", 15, "other")
    node.pods = node.pods[:3]
    await node.wants(*wanted)
    assert node.enforced() == {"a": policy("a", 3), "b": policy("b", 15, "other")}


async def test_one_that_envoy_refuses_and_one_without_room() -> None:
    """Each is found, and neither counts as the last good version of itself."""
    node = Node()
    bad, large = by_request("a", "/bad"), policy("b", 99, "other")
    for _ in range(2):
        await node.wants(bad, large, policy("c", 5))
        assert node.enforced() == {"a": withheld(bad), "b": shut(large), "c": policy("c", 5)}
    assert ([each.name for each in node.maker.refusals], list(node.held())) == (["a"], ["b"])
    await node.wants(by_request("a", "/good"), policy("b", 9, "other"), policy("c", 5))
    assert node.enforced() == {"a": by_request("a", "/good"), "b": policy("b", 9, "other"), "c": policy("c", 5)}
    assert not node.held() and not node.maker.refusals


async def test_after_a_restart_the_version_in_force_last_stays() -> None:
    old, other = policy("b", 5, "other"), policy("a", 5)
    node = Node(Memory({"a.yaml": (other,), "b.yaml": (old,)}))
    await node.wants(other, policy("b", 99, "other"))
    assert node.enforced() == {"a": other, "b": old}
    assert node.held()["b"].remembered == old


async def test_where_nothing_can_be_remembered_it_is_denied() -> None:
    class Lost(Memory):
        def policies(self, source: str) -> tuple[Policy, ...]:
            raise StateError(f"cannot read what was accepted from {source}")

    node = Node(Lost())
    await node.wants(policy("a", 5), policy("b", 99, "other"))
    assert node.enforced() == {"a": policy("a", 5), "b": shut(policy("b", 99, "other"))}


async def test_where_no_policy_is_to_blame_the_change_is_refused() -> None:
    node = Node()
    node.kernel.room[Table.ENDPOINTS] = 2
    for _ in range(3):
        with pytest.raises(MapFullError, match="endpoints"):
            await node.wants(policy("a", 5))
    assert not node.held()
    node.kernel.room[Table.ENDPOINTS] = 9
    await node.wants(policy("a", 5))


async def test_addresses_alone_that_have_no_room_are_not_searched_again_and_again() -> None:
    node = Node()
    node.kernel.room[Table.IPCACHE] = 2
    wanted = policy("a", 5), policy("b", 0, networks=3)
    counts = []
    for _ in range(3):
        before = node.kernel.counts
        with pytest.raises(MapFullError, match="ipcache"):
            await node.wants(*wanted)
        counts.append(node.kernel.counts - before)
    assert counts[0] > counts[-1] <= 2


async def test_what_is_held_back_is_not_counted_again_while_nothing_is_new() -> None:
    node = Node()
    wanted = policy("a", 5), policy("b", 99, "other")
    await node.wants(*wanted)
    await node.wants(*wanted)
    before = node.kernel.counts
    await node.wants(*wanted)
    assert node.kernel.counts - before <= 3


SIZES = st.sampled_from([1, 10, 25, 40, 99])
POLICIES = st.dictionaries(
    st.sampled_from("abcd"), st.tuples(SIZES, st.sampled_from(["server", "other"]), st.booleans()), max_size=4
)


@given(st.lists(POLICIES, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_whatever_comes_is_in_force_as_far_as_there_is_room(rounds: list[dict[str, tuple[int, str, bool]]]) -> None:
    """Nothing is refused as a whole, and nobody is let in whom what is wanted, or was in force, does not let in."""

    async def run() -> None:
        node = Node()
        for listed in rounds:
            wanted = [policy(name, size, subject, deny) for name, (size, subject, deny) in listed.items()]
            before = node.enforced() if node.kernel.world is not None else {}
            await node.wants(*wanted)
            now, held = node.enforced(), node.held()
            assert now.keys() == listed.keys()
            for each in wanted:
                name = each.key.name
                if name in held:
                    assert now[name] in (before.get(name), shut(each), closed(each))
                    assert held[name].wants + held[name].others > held[name].room
                else:
                    assert now[name] == each

    asyncio.run(run())
