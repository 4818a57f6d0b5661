"""One bad policy stops no other: the search for it, what stands in its place, and how it recovers.

Envoy is a set of rules here, so that it can refuse anything; a real one that refuses is in tests/e2e/test_nack.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.agent.force.applied import Applied
from lockgate.agent.force.change import ChangeMaker
from lockgate.agent.refusal.blame import ALL, told_in
from lockgate.policies import Policy, PolicyKey, World, parse_policies
from lockgate.policies.identity import endpoint_of
from lockgate.policies.model import HttpConditions
from lockgate.policies.withheld import withheld
from lockgate.policies.workload import Workload
from lockgate.redirect.room import Need

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
"""
INGRESS = "lockgate.http.ingress"


@lru_cache
def policy(name: str, *paths: str) -> Policy:
    text = POLICY.replace("NAME", name) + "".join(f"        - path: {path}\n" for path in paths)
    (parsed,) = parse_policies(text.encode(), f"{name}.yaml").policies
    return parsed


def paths(policies: Iterable[Policy]) -> set[str]:
    """What Envoy would be told."""
    return {
        rule.path or ""
        for policy in policies
        for spec in policy.rules
        for entry in spec.ingress
        for ports in entry.ports or ()
        if isinstance(ports.l7, HttpConditions)
        for rule in ports.l7.http
    }


@dataclass
class Envoy:
    """Refuses what `refuses` says about the paths, with the words it gives. Records what it was offered and took."""

    refuses: Callable[[set[str]], str]
    offered: list[frozenset[str]] = field(default_factory=list)
    in_force: tuple[Policy, ...] = ()
    gone: bool = False

    async def offer(self, world: World) -> Applied:
        await asyncio.sleep(0)
        told = paths(world.policies)
        if self.gone:
            return Applied(unconfirmed=True)
        if (text := self.refuses(told)) and frozenset(told) not in self.offered:
            self.offered.append(frozenset(told))
        return Applied({INGRESS: text} if text else {})

    def told(self, world: World, resources: Collection[str] = ALL) -> Set[PolicyKey]:
        return told_in(world, world.endpoints, resources)

    async def need(self, world: World) -> Need:
        return Need({}, {})

    async def apply(self, world: World) -> Applied:
        applied = await self.offer(world)
        if not applied.nacks and not applied.unconfirmed:
            self.in_force = world.policies
        return applied


def bad_words(told: set[str]) -> str:
    """Refuses every path with `bad` in it, and does not say which."""
    return "one of them is bad" if any("bad" in path for path in told) else ""


def telling_words(told: set[str]) -> str:
    bad = sorted(path for path in told if "bad" in path)
    return f"'{bad[0]}': pattern too large" if bad else ""


@dataclass
class Memory:
    policies_of: dict[str, tuple[Policy, ...]] = field(default_factory=dict)

    def policies(self, source: str) -> tuple[Policy, ...]:
        return self.policies_of.get(source, ())


class Node:
    """An agent's changes, made one after the other."""

    def __init__(self, refuses: Callable[[set[str]], str] = bad_words, memory: Memory | None = None) -> None:
        self.envoy = Envoy(refuses)
        self.maker = ChangeMaker(self.envoy, memory or Memory())
        server = endpoint_of(Workload("server", "default", (("app", "server"),), ips=(ip_address("10.0.0.1"),)))
        self._world_of = partial(World.of, endpoints=[replace(server, ifindex=7)])

    async def wants(self, *policies: Policy) -> Applied:
        made = await self.maker.make(self._world_of(self.maker.admitted(policies)), policies, self._world_of)
        return made.applied

    def enforced(self) -> dict[str, Policy]:
        return {policy.key.name: policy for policy in self.envoy.in_force}

    def told(self) -> dict[str, str]:
        """The places that are to blame."""
        return {key.name: str(refusal.place) for key, refusal in self.maker.refusals.items()}


FIRST = "spec.ingress[0].toPorts[0].rules.http"


async def test_one_bad_policy_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    node = Node(telling_words)
    await node.wants(policy("a", "/1"), policy("b", "/2"))
    new = [policy("a", "/1", "/3"), policy("b", "/2", "/bad/[0-9]+"), policy("c", "/4"), policy("d", "/bad/x+")]
    with caplog.at_level(logging.ERROR, "lockgate.agent"):
        assert await node.wants(*new) == Applied()
    assert node.enforced() == {"a": new[0], "b": policy("b", "/2"), "c": new[2], "d": withheld(new[3])}
    assert node.told() == {"b": f"{FIRST}[1].path", "d": f"{FIRST}[0].path"}
    assert [record.getMessage() for record in caplog.records] == [
        f"b.yaml:9: {FIRST}[1].path: Envoy refuses policy default/b (lockgate.http.ingress: '/bad/[0-9]+': pattern too "
        "large); its last good version stays enforced",
        f"d.yaml:9: {FIRST}[0].path: Envoy refuses policy default/d (lockgate.http.ingress: '/bad/x+': pattern too "
        "large); what only it allows is denied",
    ]


async def test_what_the_words_do_not_tell_is_found_by_trying() -> None:
    node = Node()
    good = [policy(f"p{number}", f"/{number}") for number in range(20)]
    await node.wants(*good, policy("new", "/a", "/b", "/c", "/bad", "/d"))
    assert node.told() == {"new": f"{FIRST}[3]"}
    assert set(node.enforced()) == {*(each.key.name for each in good), "new"}
    assert paths(node.envoy.in_force) == {f"/{number}" for number in range(20)}


async def test_the_place_is_not_looked_for_without_end() -> None:
    """Of parts that are refused in company only there are as many to blame as there are parts; others wait."""
    node = Node(lambda told: "too deep" if len(told) > 30 else "")
    good, large = policy("good", "/1"), policy("large", *(f"/{number}" for number in range(2000)))
    assert await node.wants(good, large) == Applied()
    assert node.told().keys() == {"large"}
    assert node.enforced() == {"good": good, "large": withheld(large)}
    assert len(node.envoy.offered) < 40


async def test_what_is_refused_is_not_offered_again_until_it_changes() -> None:
    node = Node(telling_words)
    good, bad = policy("good", "/1"), policy("b", "/bad")
    await node.wants(good, bad)
    refused = len(node.envoy.offered)
    for number in range(3):
        assert await node.wants(policy("good", f"/{number}"), bad) == Applied()
        assert node.enforced()["good"] == policy("good", f"/{number}")
    assert len(node.envoy.offered) == refused, "nothing that Envoy refuses was offered since"
    assert await node.wants(good, policy("b", "/fine")) == Applied()
    assert node.enforced() == {"good": good, "b": policy("b", "/fine")}
    assert node.maker.refusals == {}


async def test_two_that_are_refused_together_stay_refused() -> None:
    node = Node()
    await node.wants(policy("a", "/1"))
    assert await node.wants(policy("a", "/bad/1"), policy("b", "/bad/1")) == Applied()
    assert node.told().keys() == {"a", "b"}
    searches = node.maker.searches
    await node.wants(policy("a", "/bad/1"), policy("b", "/bad/1"))
    assert node.maker.searches == searches


async def test_a_policy_that_is_deleted_is_forgotten() -> None:
    node = Node()
    await node.wants(policy("good", "/1"), policy("b", "/bad"))
    await node.wants(policy("good", "/1"))
    assert set(node.enforced()) == {"good"}
    assert node.maker.refusals == {}


async def test_policies_that_do_not_go_together_cost_the_newer_one_which_recovers_by_itself() -> None:
    node = Node(lambda told: "too much" if {"/1", "/2"} <= told else "")
    one, two = policy("one", "/1"), policy("two", "/2")
    await node.wants(one)
    await node.wants(one, two)
    assert node.told() == {"two": f"{FIRST}[0]"}
    assert node.enforced() == {"one": one, "two": withheld(two)}
    await node.wants(two)
    assert node.enforced() == {"two": two}


async def test_what_no_policy_is_to_blame_for_is_held_back_whole() -> None:
    node = Node(lambda told: "no room")
    applied = await node.wants(policy("a", "/1"), policy("b", "/2"))
    assert applied.nack == "lockgate.http.ingress: no room"
    assert node.enforced() == {}
    assert node.maker.refusals == {}


async def test_after_a_restart_the_version_that_was_taken_last_stays() -> None:
    old, new, other = policy("a", "/1"), policy("a", "/bad"), policy("b", "/2")
    node = Node(memory=Memory({"a.yaml": (old,), "b.yaml": (other,)}))
    await node.wants(new, other)
    assert node.enforced() == {"a": old, "b": other}
    assert len(node.envoy.offered) == 1, "what was taken before is not suspected"


async def test_an_envoy_that_goes_away_is_asked_again() -> None:
    def refuses(told: set[str]) -> str:
        node.envoy.gone = bool(told)
        return bad_words(told)

    node = Node(refuses)
    applied = await node.wants(policy("a", "/bad"), policy("b", "/2"))
    assert (applied.unconfirmed, node.maker.refusals) == (True, {})
    node.envoy.gone, node.envoy.refuses = False, bad_words
    assert await node.wants(policy("a", "/bad"), policy("b", "/2")) == Applied()
    assert set(node.told()) == {"a"}


@given(st.data())
@settings(max_examples=25, deadline=None)
def test_whatever_comes_the_good_are_enforced_and_the_bad_are_not(data: st.DataObject) -> None:
    names = st.sampled_from("abc")
    listed = st.dictionaries(names, st.lists(st.sampled_from(["/1", "/2", "/bad/1", "/bad/2"]), min_size=1, max_size=3))
    node = Node(data.draw(st.sampled_from([bad_words, telling_words])))

    async def run(rounds: Sequence[dict[str, list[str]]]) -> None:
        last: dict[str, Policy] = {}
        for wanted in rounds:
            policies = [policy(name, *dict.fromkeys(listed)) for name, listed in wanted.items()]
            assert await node.wants(*policies) == Applied()
            for each in policies:
                name = each.key.name
                if not bad_words(paths([each])):
                    assert node.enforced()[name] == each
                else:
                    assert node.enforced()[name] == last.get(name, withheld(each))
                    assert re.fullmatch(
                        r"spec\.ingress\[0\]\.toPorts\[0\]\.rules\.http\[\d\](\.path)?", node.told()[name]
                    )
            last = {name: each for name, each in node.enforced().items() if paths([each])}
            assert set(node.enforced()) == set(wanted)

    asyncio.run(run(data.draw(st.lists(listed, min_size=1, max_size=3))))
