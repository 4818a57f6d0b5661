"""What the kernel may do while Envoy has not answered: by table, and for random changes of random policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    DnsRule,
    DnsRules,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    L7Rules,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.identity import IPNetwork
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.narrowing import narrowed
from lockgate.redirect.plan import ALLOW, DENY, HOST, DatapathPlan, Effect, Owner, ProxyPorts, Verdict
from lockgate.redirect.planner import Planner

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
HTTP = HttpRules((HttpRule(path="/"),))
DNS = DnsRules((DnsRule(match_name="a.example"),))
KAFKA = KafkaRules((KafkaRule(),))
PORTS = ProxyPorts()
ENVOY = (PORTS.http, PORTS.tls, PORTS.kafka)
REDIRECT, DROP = Effect(Verdict.REDIRECT, PORTS.http), Effect(Verdict.REDIRECT)
WORLD, A, B, C = 9, 80001, 80002, 80003
OPEN, SHUT = DirectionPolicy(), DirectionPolicy(default_deny=True)


def tcp(first: int, last: int | None = None) -> PortSpan:
    return PortSpan(Protocol.TCP, first, last or first)


def rule(peers: set[int] | None, *spans: PortSpan, l7: L7Rules | None = None, deny: bool = False) -> ResolvedRule:
    return ResolvedRule(ORIGIN, deny, None if peers is None else frozenset(peers), spans or None, l7)


def shut(*rules: ResolvedRule) -> DirectionPolicy:
    return DirectionPolicy(True, rules)


Pod = tuple[int, int, DirectionPolicy, DirectionPolicy]  # interface, identity, ingress, egress


def made(*pods: Pod, others: Sequence[int] = (WORLD,), host: EndpointPolicy | None = None) -> DatapathPlan:
    """Each pod has the address 10.0.0.INTERFACE, each of the others 192.0.NUMBER.0/24."""
    endpoints = [
        (
            Endpoint(Workload(str(ifindex), "default", ()), identity, (_address(ifindex),), ifindex),
            EndpointPolicy(ingress=ingress, egress=egress),
        )
        for ifindex, identity, ingress, egress in pods
    ]
    owners: dict[IPNetwork, int] = {
        ip_network(f"192.0.{number}.0/24"): identity for number, identity in enumerate(others)
    }
    return Planner().plan(endpoints, {**owners, ip_network("10.9.9.9/32"): HOST}, PORTS, host)


def _address(ifindex: int) -> IPv4Address:
    return IPv4Address(f"10.0.0.{ifindex}")


def asked(plan: DatapathPlan, client: Owner, server: Owner, port: int = 80) -> Effect:
    return plan.judge_owners(client, server, Protocol.TCP, port)


CLIENT, SERVER, OUTSIDE = Owner(A, 5), Owner(B, 6), Owner(WORLD)
L7 = shut(rule({A}, tcp(80), l7=HTTP))
L4 = shut(rule({A}, tcp(80)))


@pytest.mark.parametrize(
    ("before", "after", "meanwhile"),
    [
        (L4, SHUT, DENY),
        (L7, SHUT, DENY),
        (L7, L7, REDIRECT),
        (L7, L4, ALLOW),
        (L4, L7, DROP),
        (SHUT, L7, DROP),
        (SHUT, L4, ALLOW),
        (OPEN, L7, DROP),
        (L7, shut(rule({A}, tcp(80), l7=KAFKA)), DROP),
        (L7, shut(rule({A}, tcp(80), l7=HTTP), rule({A}, tcp(80), deny=True)), DENY),
        (L7, shut(rule({A, C}, tcp(80), l7=HTTP)), REDIRECT),
        (L7, shut(rule({A}, tcp(80, 87), l7=HTTP)), REDIRECT),
        (shut(rule({A}, tcp(80, 87), l7=HTTP)), L7, REDIRECT),
        (shut(rule({A}, tcp(80, 87), l7=HTTP), rule({A}, tcp(80), deny=True)), L7, DROP),
        (L7, shut(rule(None, tcp(80), l7=HTTP)), REDIRECT),
        (shut(rule(None, tcp(80), l7=HTTP)), L7, REDIRECT),
        (L7, DirectionPolicy(False, (rule(None, tcp(80), l7=HTTP),)), DROP),  # for all others it was shut
        (SHUT, shut(rule({A}, tcp(80), l7=DNS)), Effect(Verdict.REDIRECT, PORTS.dns)),
    ],
)
def test_one_end(before: DirectionPolicy, after: DirectionPolicy, meanwhile: Effect) -> None:
    held = made((5, A, SHUT, OPEN), (6, B, before, SHUT), others=(WORLD, C))
    wanted = made((5, A, SHUT, OPEN), (6, B, after, SHUT), others=(WORLD, C))
    assert asked(narrowed(held, wanted, ENVOY), CLIENT, SERVER) == meanwhile


@pytest.mark.parametrize(
    ("before", "after", "meanwhile"),
    [
        (SHUT, OPEN, DROP),  # what the old policy of the server says of it would be let through
        (OPEN, SHUT, DENY),
        (OPEN, shut(rule({B}, tcp(80))), REDIRECT),
        (shut(rule({B}, tcp(81))), shut(rule({B}, tcp(80, 81))), DROP),
        (shut(rule({B}, tcp(80))), shut(rule({B}, tcp(80, 81))), REDIRECT),  # what opens is another port
        (shut(rule({B}, tcp(80), l7=HTTP)), OPEN, REDIRECT),
        (shut(rule({B}, tcp(80), l7=KAFKA)), OPEN, DROP),
        (OPEN, shut(rule({B}, tcp(80), l7=HTTP)), DROP),
    ],
)
def test_the_other_end(before: DirectionPolicy, after: DirectionPolicy, meanwhile: Effect) -> None:
    held, wanted = (made((5, A, SHUT, egress), (6, B, L7, SHUT)) for egress in (before, after))
    assert asked(narrowed(held, wanted, ENVOY), CLIENT, SERVER) == meanwhile


def test_a_change_of_rules_by_request_alone_changes_nothing() -> None:
    held = made((5, A, SHUT, OPEN), (6, B, L7, SHUT))
    other = shut(rule({A}, tcp(80), l7=HttpRules((HttpRule(path="/other"),))))
    assert narrowed(held, made((5, A, SHUT, OPEN), (6, B, other, SHUT)), ENVOY) == held


def test_a_new_endpoint_without_rules_by_request_is_served() -> None:
    anyone = shut(rule(None, tcp(80), l7=HTTP))
    held = made((6, B, anyone, SHUT))
    wanted = made((6, B, anyone, SHUT), (5, A, OPEN, OPEN))
    found = narrowed(held, wanted, ENVOY)
    assert asked(found, CLIENT, OUTSIDE) == asked(found, OUTSIDE, CLIENT) == ALLOW
    assert asked(found, CLIENT, SERVER) == DROP, "Envoy does not know it"
    assert asked(found, OUTSIDE, SERVER) == REDIRECT


def test_an_endpoint_that_is_gone_or_another_one_now() -> None:
    held = made((5, A, SHUT, OPEN), (6, B, L7, SHUT))
    gone = narrowed(held, made((6, B, L7, SHUT)), ENVOY)
    assert gone.owner(_address(5)) is None
    relabelled = narrowed(held, made((5, C, SHUT, OPEN), (6, B, shut(rule({C}, tcp(80), l7=HTTP)), SHUT)), ENVOY)
    assert asked(relabelled, Owner(C, 5), SERVER) == DROP
    assert asked(relabelled, Owner(C, 5), OUTSIDE) == ALLOW


def test_the_node_itself() -> None:
    held = made((6, B, L7, SHUT))
    closed = EndpointPolicy(egress=SHUT)
    found = narrowed(held, made((6, B, L7, SHUT), host=closed), ENVOY)
    assert asked(found, Owner(HOST), OUTSIDE) == DENY
    found = narrowed(found, held, ENVOY)
    assert asked(found, Owner(HOST), OUTSIDE) == ALLOW


def test_of_maps_that_hold_nothing_nothing_is_handed_over() -> None:
    wanted = made((5, A, OPEN, OPEN), (6, B, L7, SHUT))
    found = narrowed(DatapathPlan(), wanted, ENVOY)
    assert asked(found, CLIENT, SERVER) == DROP
    assert asked(found, CLIENT, OUTSIDE) == ALLOW


EDGES = (79, 80, 81, 128)
spans = st.builds(lambda one, other: tcp(min(one, other), max(one, other)), *[st.sampled_from(EDGES)] * 2)
identities = st.sampled_from([A, B, C])
rules = st.builds(
    lambda deny, l7, peers, ports: ResolvedRule(ORIGIN, deny, peers, ports, None if deny else l7),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([None, HTTP, HTTP, KAFKA, DNS]),
    st.none() | st.frozensets(st.sampled_from([A, B, C, WORLD, HOST]), max_size=3),
    st.none() | st.lists(spans, max_size=2).map(tuple),
)
halves = st.builds(DirectionPolicy, st.booleans(), st.lists(rules, max_size=3).map(tuple))
policies = st.builds(lambda one, other: EndpointPolicy(ingress=one, egress=other), halves, halves)
State = tuple[list[tuple[int, int, int]], list[int], int | None]  # pods, others, the node; policies by number
numbers = st.integers(0, 3)
states = st.tuples(
    st.lists(st.tuples(st.sampled_from([5, 6, 7]), identities, numbers), max_size=3, unique_by=lambda pod: pod[0]),
    st.lists(st.sampled_from([WORLD, A, B, C]), max_size=3, unique=True),
    st.none() | numbers,
)


def planned(state: State, said: list[EndpointPolicy]) -> DatapathPlan:
    pods, others, host = state
    ends = [
        (ifindex, identity, with_node(said[number].ingress), said[number].egress) for ifindex, identity, number in pods
    ]
    return made(*ends, others=others, host=None if host is None else by_port(said[host]))


def with_node(ingress: DirectionPolicy) -> DirectionPolicy:
    """Every endpoint lets the node in, by a rule that nobody writes."""
    return DirectionPolicy(ingress.default_deny, (*ingress.rules, rule({HOST})))


def by_port(policy: EndpointPolicy) -> EndpointPolicy:
    """Policies of the node have no rules by request: they are refused."""
    ingress, egress = (
        replace(half, rules=tuple(replace(each, l7=None) for each in half.rules))
        for half in (policy.ingress, policy.egress)
    )
    return EndpointPolicy(ingress=ingress, egress=egress)


def owners_in(plan: DatapathPlan) -> set[Owner]:
    return {owner for owner in plan.ipcache.values() if owner.identity}


def drops(effect: Effect) -> bool:
    return effect in (DROP, DENY)


def check(held: DatapathPlan, found: DatapathPlan, wanted: DatapathPlan) -> None:
    assert found.ipcache == wanted.ipcache
    before, owners = owners_in(held), owners_in(wanted)
    known = {owner.identity for owner in before}
    for client in owners:
        for server in owners:
            for port in EDGES:
                new, now = asked(wanted, client, server, port), asked(found, client, server, port)
                if new.verdict is not Verdict.REDIRECT or new.proxy_port not in ENVOY:
                    assert now == new or (drops(now) and drops(new))
                elif not drops(now):
                    assert now == new
                    assert {client.identity, server.identity} <= known
                    assert {each for each in (client, server) if each.ifindex} <= before
                    assert asked(held, client, server, port) == now


@settings(max_examples=100, deadline=None)
@given(st.lists(policies, min_size=4, max_size=4), states, states, states)
def test_nothing_is_let_through_that_neither_the_old_nor_the_new_policies_allow(
    said: list[EndpointPolicy], first: State, second: State, third: State
) -> None:
    """Also when another change comes while Envoy has not answered to the first."""
    held, wanted, last = (planned(state, said) for state in (first, second, third))
    found = narrowed(held, wanted, ENVOY)
    check(held, found, wanted)
    check(found, narrowed(found, last, ENVOY), last)


@settings(max_examples=40, deadline=None)
@given(st.lists(policies, min_size=4, max_size=4), states, states)
def test_once_is_enough(said: list[EndpointPolicy], first: State, second: State) -> None:
    held, wanted = planned(first, said), planned(second, said)
    assert narrowed(wanted, wanted, ENVOY) == wanted
    found = narrowed(held, wanted, ENVOY)
    again = narrowed(found, wanted, ENVOY)
    for client in owners_in(wanted):
        for server in owners_in(wanted):
            for port in EDGES:
                one, other = asked(found, client, server, port), asked(again, client, server, port)
                assert one == other or (drops(one) and drops(other))
