"""Worlds: identities, the ipcache, and what a changed world keeps of the one before."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import PortSpan, Protocol
from lockgate.policies.errors import PolicyError
from lockgate.policies.identity import CIDR_IDENTITIES, Reserved, endpoint_of
from lockgate.policies.identity_index import IdentityIndex
from lockgate.policies.labels import workload_labels
from lockgate.policies.model import (
    Block,
    Entity,
    Entry,
    HttpCondition,
    HttpConditions,
    Peers,
    Policy,
    PolicyKey,
    PolicyKind,
    Port,
    PortRule,
    Rule,
)
from lockgate.policies.resolve import RulePlan, Surroundings
from lockgate.policies.selector import Operator, Requirement, Selector
from lockgate.policies.workload import Endpoint, Workload
from lockgate.policies.world import World


def endpoint(name: str, app: str = "", ip: str = "", **ports: int) -> Endpoint:
    labels = (("app", app),) if app else ()
    return endpoint_of(Workload(name, "default", labels, ips=(ip_address(ip),) if ip else (), ports=ports))


def selector(app: str) -> Selector:
    return Selector((Requirement("any", "app", Operator.IN, (app,)),))


def policy(name: str, subject: str, peers: Peers | None, ports: tuple[PortRule, ...] | None = None) -> Policy:
    entry = Entry(False, peers, ports, "spec.ingress[0]", 3)
    rule = Rule(selector(subject), (entry,), (), True, False, "spec", 2)
    return Policy(PolicyKey(PolicyKind.CILIUM, "default", name), (rule,), f"{name}.yaml", 1)


def test_the_ipcache_holds_endpoints_cidrs_hosts_and_the_worlds() -> None:
    ten, exact = ip_network("10.0.0.0/8"), ip_network("10.0.0.1/32")
    peers = Peers(blocks=(Block(ten, (ip_network("10.5.0.0/16"),)), Block(exact), Block(ip_network("0.0.0.0/0"))))
    front = endpoint("front", "front", "10.0.0.1")
    world = World.of([policy("p", "back", peers)], [front], hosts=[ip_address("10.0.0.254"), ip_address("fe80::1")])
    assert {str(prefix): number for prefix, number in world.ipcache.items() if number not in CIDR_IDENTITIES} == {
        "0.0.0.0/0": 9,
        "::/0": 10,
        "10.0.0.1/32": front.identity,
        "10.0.0.254/32": 1,
        "fe80::1/128": 1,
    }
    assert {str(prefix) for prefix, number in world.ipcache.items() if number in CIDR_IDENTITIES} == {
        "10.0.0.0/8",
        "10.5.0.0/16",
    }
    expected = {
        "10.0.0.1": front.identity,
        "10.0.0.254": 1,
        "10.9.9.9": world.ipcache[ten],
        "11.0.0.1": 9,
        "fd00::1": 10,
    }
    assert {text: world.identity_at(ip_address(text)) for text in expected} == expected
    assert set(world.ipcache.values()) <= set(world.identities)


def test_look_ups() -> None:
    back = endpoint("back", "back", "10.0.0.2")
    world = World.of([policy("p", "back", None)], [back, endpoint("bare")])
    assert world.endpoint("default/back") is back
    assert world.endpoint("default/nobody") is None
    assert world.identity_of(workload_labels("default", [("app", "back")])) == back.identity
    assert world.identity_of(workload_labels("default", [("app", "x")])) is None
    assert [item.key for item in world.endpoints] == ["default/back", "default/bare"]
    assert [str(found) for found in world.policies_of(back)] == ["default/p"]
    assert world.policies_of(endpoint("bare")) == ()
    names = [world.peer_name(number) for number in (back.identity, endpoint("bare").identity, 9, 12345)]
    assert names == ["app=back in default", "no labels in default", "reserved:world-ipv4", "identity 12345"]


def test_a_cidr_identity_is_called_by_its_prefix() -> None:
    world = World.of([policy("p", "back", Peers(blocks=(Block(ip_network("fd00::/8")),)))], [])
    assert world.peer_name(world.ipcache[ip_network("fd00::/8")]) == "cidr:fd00::/8"


def test_replicas_share_one_policy_and_named_ports_tell_apart() -> None:
    ports = (PortRule((Port((Protocol.TCP,), 0, 0, "http"),)),)
    replicas = [endpoint("a", "back", http=80), endpoint("b", "back", http=80), endpoint("c", "back", http=81, other=1)]
    world = World.of([policy("p", "back", None, ports)], replicas)
    a, b, c = (world.policy_of(item) for item in replicas)
    assert a is b
    assert a.ingress.rules[0].ports == (PortSpan(Protocol.TCP, 80, 80),)
    assert c.ingress.rules[0].ports == (PortSpan(Protocol.TCP, 81, 81),)


def test_the_world_is_the_authority_on_identities() -> None:
    wrong = Endpoint(Workload("a", "default", (("app", "a"),)), 5, ())
    (found,) = World.of([], [wrong]).endpoints
    assert found.identity == endpoint("a", "a").identity


def test_one_key_twice_is_refused() -> None:
    with pytest.raises(PolicyError, match="two policies are called CiliumNetworkPolicy default/p"):
        World.of([policy("p", "a", None), policy("p", "b", None)], [])
    with pytest.raises(PolicyError, match="two endpoints are called default/a"):
        World.of([], [endpoint("a"), endpoint("a", "x")])


def test_entity_sets_follow_the_cidrs() -> None:
    world = World.of(
        [
            policy("p", "back", Peers(entities=(Entity.WORLD,))),
            policy("q", "x", Peers(blocks=(Block(ip_network("192.0.2.0/24")),))),
        ],
        [endpoint("back", "back")],
    )
    (rule, _) = world.policy_of(endpoint("back", "back")).ingress.rules
    named = world.ipcache[ip_network("192.0.2.0/24")]
    assert rule.peers == frozenset({Reserved.WORLD, Reserved.WORLD_IPV4, Reserved.WORLD_IPV6, named})


def test_what_a_change_does_not_touch_stays_the_same_object() -> None:
    apps = ["a", "b", "c"]
    endpoints = [endpoint(app, app) for app in apps]
    policies = [policy(app, app, Peers((selector("a"),))) for app in apps]
    first = World.of(policies, endpoints)
    before = [first.policy_of(item) for item in endpoints]
    changed = [policies[0], policy("b", "b", None), policies[2]]
    second = World.of(changed, endpoints, previous=first)
    after = [second.policy_of(item) for item in endpoints]
    assert [one is two for one, two in zip(before, after, strict=True)] == [True, False, True]
    # a new identity that no selector means leaves every policy as it was
    third = World.of(changed, [*endpoints, endpoint("d", "d")], previous=second)
    assert [third.policy_of(item) is old for item, old in zip(endpoints, after, strict=True)] == [True, True, True]
    # one that a selector means changes exactly the rules with that selector
    fourth = World.of(changed, [*endpoints, endpoint_of(Workload("a2", "shop", (("app", "a"),)))], previous=third)
    assert [fourth.policy_of(item) is old for item, old in zip(endpoints, after, strict=True)] == [False, True, False]


def test_rules_about_the_same_workloads_share_what_is_known_of_them() -> None:
    made = World.of([policy(name, "a", Peers((selector("b"),))) for name in ("one", "two")], [endpoint("a", "a")])
    one, two = made.policies
    around = Surroundings(IdentityIndex(made.identities, {}))
    assert RulePlan(one, one.rules[0], around).subjects is RulePlan(two, two.rules[0], around).subjects


APPS = st.sampled_from(["a", "b", "c"])
PEERS = st.one_of(
    st.none(),
    st.builds(lambda apps: Peers(tuple(selector(app) for app in apps)), st.lists(APPS, max_size=2)),
    st.builds(
        lambda prefixes: Peers(blocks=tuple(Block(ip_network(prefix)) for prefix in prefixes)),
        st.lists(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.1.1/32", "0.0.0.0/0", "fd00::/8"]), max_size=2),
    ),
    st.builds(lambda entity: Peers(entities=(entity,)), st.sampled_from(list(Entity))),
)
PORT_RULES = st.builds(
    lambda name, path: PortRule(
        (Port((Protocol.TCP,), 0, 0, "http") if name else Port((Protocol.TCP,), 80, 80),),
        HttpConditions((HttpCondition(path),)) if path else None,
    ),
    st.booleans(),
    st.sampled_from(["", "/x", "/y.*"]),
)
ENTRIES = st.builds(
    lambda deny, peers, ports: Entry(deny, peers, None if ports is None else (ports,), "spec.ingress[0]", 3),
    st.booleans(),
    PEERS,
    st.none() | PORT_RULES,
)
RULES = st.builds(
    lambda app, ingress, egress, deny: Rule(selector(app), tuple(ingress), tuple(egress), deny, not deny, "spec", 2),
    APPS,
    st.lists(ENTRIES, max_size=2),
    st.lists(ENTRIES, max_size=2),
    st.booleans(),
)
POLICIES = st.lists(
    st.builds(
        lambda name, rules: Policy(PolicyKey(PolicyKind.CILIUM, "default", name), tuple(rules), "p.yaml", 1),
        st.sampled_from("pqrs"),
        st.lists(RULES, min_size=1, max_size=2),
    ),
    max_size=4,
    unique_by=lambda item: item.key,
)
ENDPOINTS = st.lists(
    st.builds(
        lambda name, app, ip, port: endpoint(name, app, ip, http=port),
        st.sampled_from("tuvwx"),
        st.sampled_from(["", "a", "b"]),
        st.sampled_from(["", "10.1.1.1", "10.9.9.9"]),
        st.sampled_from([80, 8080]),
    ),
    max_size=4,
    unique_by=lambda item: item.key,
)


@settings(deadline=None)
@given(st.lists(st.tuples(POLICIES, ENDPOINTS), min_size=2, max_size=4))
def test_a_world_from_the_previous_one_equals_one_from_scratch(
    steps: list[tuple[list[Policy], list[Endpoint]]],
) -> None:
    previous: World | None = None
    for policies, endpoints in steps:
        fresh = World.of(reversed(policies), reversed(endpoints))
        reused = World.of(policies, endpoints, previous=previous)
        assert reused.identities == fresh.identities
        assert reused.ipcache == fresh.ipcache
        assert reused.endpoints == fresh.endpoints
        assert reused.policies == fresh.policies
        for item in fresh.endpoints:
            assert reused.policy_of(item) == fresh.policy_of(item)
        previous = reused


BASE = [policy("", subject, Peers((selector(peer),))).rules[0] for subject in "abc" for peer in "ab"]


@settings(deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 30),
            st.sampled_from(["gone", "again"]) | st.lists(RULES, min_size=1, max_size=2),
            min_size=1,
            max_size=3,
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_few_changes_of_many_policies_give_the_world_from_scratch(steps: list[dict[int, list[Rule] | str]]) -> None:
    """Policies come, go, change, or are read anew without being others."""
    endpoints = [
        endpoint(name, app, http=port) for name, app, port in (("t", "a", 80), ("u", "a", 8080), ("v", "b", 80))
    ]
    rules: dict[int, tuple[Rule, ...]] = {number: (BASE[number % len(BASE)],) for number in range(24)}
    listed = {number: _numbered(number, rules[number]) for number in rules}
    previous = World.of(listed.values(), endpoints)
    for step in steps:
        for number, changed in step.items():
            if changed == "gone":
                listed.pop(number, None)
            else:
                rules[number] = rules.get(number, (BASE[0],)) if isinstance(changed, str) else tuple(changed)
                listed[number] = _numbered(number, rules[number])
        fresh, reused = World.of(listed.values(), endpoints), World.of(listed.values(), endpoints, previous=previous)
        assert all(one is other for one, other in zip(reused.policies, fresh.policies, strict=True))
        assert (reused.identities, reused.ipcache) == (fresh.identities, fresh.ipcache)
        for item in fresh.endpoints:
            assert reused.policy_of(item) == fresh.policy_of(item)
            assert reused.policies_of(item) == fresh.policies_of(item)
        previous = reused


def _numbered(number: int, rules: tuple[Rule, ...]) -> Policy:
    return Policy(PolicyKey(PolicyKind.CILIUM, "default", f"p{number:02}"), rules, "p.yaml", 1)


def test_many_policies_resolve_without_comparing_all_with_all() -> None:
    """10,000 policies on 100 endpoints: each selector is matched once, and a change keeps all but one plan."""
    endpoints = [endpoint(f"w{number}", f"a{number}") for number in range(100)]
    policies = [
        policy(f"p{number}", f"a{number % 100}", Peers((selector(f"a{number * 7 % 100}"),))) for number in range(10_000)
    ]
    first = World.of(policies, endpoints)
    assert len(first.policy_of(endpoints[3]).ingress.rules) == 101  # its hundred policies and the local host
    before = [first.policy_of(item) for item in endpoints]
    second = World.of(policies[1:], endpoints, previous=first)
    changed = [index for index, item in enumerate(endpoints) if second.policy_of(item) is not before[index]]
    assert changed == [0]
