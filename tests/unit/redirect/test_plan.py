from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    LAST_PORT,
    Direction,
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
    TlsContext,
    TlsRules,
)
from lockgate.policies.resolve import LOCAL_HOST
from lockgate.policies.verdict import Verdict as Judged
from lockgate.policies.verdict import judge
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect import layout
from lockgate.redirect.map_changes import diff
from lockgate.redirect.plan import ALLOW, ANYONE, DENY, OPEN_POLICY, DatapathPlan, Effect, Owner, ProxyPorts, Verdict
from lockgate.redirect.planner import Planner, compile_direction, digest_of, number_of, plan
from lockgate.redirect.port_prefix import EVERYTHING, PortPrefix, exact

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
HTTP = HttpRules((HttpRule(path="/"),))
DNS = DnsRules((DnsRule(match_name="a.example"),))
PORTS = ProxyPorts(15001, 15053)
REDIRECT = Effect(Verdict.REDIRECT, 15001)
NOWHERE = Effect(Verdict.REDIRECT, 0)
PEERS = (9, 10, 70001, 70002, 70003)
# Few numbers, close together and at the borders of powers of two, so that random rules overlap in every way.
EDGES = (0, 1, 2, 79, 80, 81, 127, 128, 129, 8079, 8080, 8191, 8192, 65534, LAST_PORT)


def rule(
    peers: set[int] | None, *spans: PortSpan, l7: L7Rules | None = None, deny: bool = False, tls: TlsRules | None = None
) -> ResolvedRule:
    return ResolvedRule(ORIGIN, deny, None if peers is None else frozenset(peers), spans or None, l7, tls)


def udp(port: int) -> PortSpan:
    return PortSpan(Protocol.UDP, port, port)


def tcp(first: int, last: int | None = None) -> PortSpan:
    return PortSpan(Protocol.TCP, first, last if last is not None else first)


def endpoint(name: str, ifindex: int, identity: int, *ips: str) -> Endpoint:
    return Endpoint(
        Workload(name, "default", ()), identity, tuple(ip_address(ip) for ip in ips), ifindex, f"veth{ifindex}"
    )


spans = st.builds(
    lambda protocol, one, other: PortSpan(protocol, min(one, other), max(one, other)),
    st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.ICMP]),
    st.sampled_from(EDGES),
    st.sampled_from(EDGES),
)
rules = st.builds(
    lambda deny, l7, peers, ports: ResolvedRule(ORIGIN, deny, peers, ports, None if deny else l7),
    st.booleans(),
    st.sampled_from([None, HTTP]),
    st.none() | st.frozensets(st.sampled_from(PEERS), max_size=3),
    st.none() | st.lists(spans, max_size=3).map(tuple),
)
policies = st.builds(DirectionPolicy, st.booleans(), st.lists(rules, max_size=5).map(tuple))


@settings(max_examples=400)
@given(policies, st.sampled_from(PEERS), st.sampled_from([Protocol.TCP, Protocol.UDP]), st.sampled_from(EDGES))
def test_the_kernel_finds_what_judge_says(policy: DirectionPolicy, peer: int, protocol: Protocol, port: int) -> None:
    made = plan([(endpoint("a", 7, 70009, "10.0.0.7"), EndpointPolicy(ingress=policy))], {}, PORTS)
    judgement = judge(policy, peer, protocol, port)
    redirect = REDIRECT if protocol is Protocol.TCP else NOWHERE
    covering = [rule for rule in policy.rules if rule.covers(peer, protocol, port)]
    proxied = any(rule.redirects for rule in covering) and not any(rule.deny for rule in covering)
    assert not judgement.redirected or proxied
    expected = redirect if proxied else DENY if judgement.verdict is Judged.DENY else ALLOW
    assert made.lookup(7, Direction.INGRESS, peer, protocol, port) == expected


@given(policies)
def test_no_entry_repeats_what_a_shorter_prefix_says(policy: DirectionPolicy) -> None:
    entries = compile_direction(policy, PORTS)
    for (identity, ports), effect in entries.items():
        shorter = next((entries[identity, each] for each in ports.covering() if (identity, each) in entries), None)
        assert effect != shorter


def test_without_policy_everything_is_one_entry() -> None:
    assert compile_direction(DirectionPolicy(), PORTS) == {(ANYONE, EVERYTHING): ALLOW}
    assert compile_direction(DirectionPolicy(default_deny=True), PORTS) == {}


def test_a_longer_prefix_holds_the_effect_of_the_shorter_ones() -> None:
    policy = DirectionPolicy(True, (rule({70001}, tcp(8000, 8063), l7=HTTP), rule({70001}, tcp(8010))))
    entries = compile_direction(policy, PORTS)
    assert entries == {(70001, PortPrefix(18, 6 << 16 | 8000)): REDIRECT}


def test_what_no_listener_serves_is_redirected_nowhere() -> None:
    kafka = KafkaRules((KafkaRule(),))
    for each in (rule(None, udp(9092), l7=kafka), rule(None, udp(443), tls=TlsRules(("a.example",)))):
        entries = compile_direction(DirectionPolicy(True, (each,)), PORTS)
        assert list(entries.values()) == [NOWHERE]
    sctp = rule(None, PortSpan(Protocol.SCTP, 53, 53), l7=DNS)
    assert list(compile_direction(DirectionPolicy(True, (sctp,)), PORTS).values()) == [NOWHERE]
    both = DirectionPolicy(True, (rule(None, tcp(9092), l7=kafka), rule(None, tcp(9092), l7=HTTP)))
    assert list(compile_direction(both, PORTS).values()) == [NOWHERE]


def test_kafka_has_a_listener_of_its_own() -> None:
    policy = DirectionPolicy(True, (rule({9}, tcp(9092), l7=KafkaRules((KafkaRule(),))),))
    assert compile_direction(policy, PORTS) == {(9, exact(Protocol.TCP, 9092)): Effect(Verdict.REDIRECT, 15003)}


def test_tls_has_a_listener_of_its_own() -> None:
    named, opened = TlsRules(("a.example",)), TlsRules((), TlsContext(("default", "certificate")))
    rules = (rule({9}, tcp(443), tls=named), rule({9}, tcp(443), l7=HTTP, tls=opened))
    entries = compile_direction(DirectionPolicy(True, rules), PORTS)
    assert entries == {(9, exact(Protocol.TCP, 443)): Effect(Verdict.REDIRECT, 15002)}
    plain = rule({9}, tcp(443), l7=HTTP)
    assert list(compile_direction(DirectionPolicy(True, (*rules, plain)), PORTS).values()) == [NOWHERE]


def test_dns_has_a_proxy_of_its_own() -> None:
    entries = compile_direction(DirectionPolicy(True, (rule({9}, udp(53), tcp(53), l7=DNS),)), PORTS)
    dns = Effect(Verdict.REDIRECT, 15053)
    assert entries == {(9, exact(Protocol.UDP, 53)): dns, (9, exact(Protocol.TCP, 53)): dns}
    both = (rule({9}, udp(53), tcp(53), l7=DNS), rule({9}, tcp(53), l7=HTTP), rule(None, udp(53)))
    entries = compile_direction(DirectionPolicy(True, both), PORTS)
    assert entries[9, exact(Protocol.TCP, 53)] == NOWHERE  # two proxies for one connection are none
    assert entries[9, exact(Protocol.UDP, 53)] == dns


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (ALLOW, REDIRECT, REDIRECT),
        (DENY, REDIRECT, DENY),
        (REDIRECT, REDIRECT, REDIRECT),
        (REDIRECT, Effect(Verdict.REDIRECT, 15002), Effect(Verdict.REDIRECT, 0)),
    ],
)
def test_the_stronger_effect_wins(one: Effect, other: Effect, expected: Effect) -> None:
    assert one.combine(other) == other.combine(one) == expected


def test_endpoints_with_equal_rules_share_one_policy() -> None:
    def policy() -> EndpointPolicy:
        return EndpointPolicy(ingress=DirectionPolicy(True, (rule({70001}, tcp(80)),)))

    made = plan([(endpoint("a", 1, 70001, "10.0.0.1"), policy()), (endpoint("b", 2, 70002, "10.0.0.2"), policy())], {})
    assert made.endpoints[1] == made.endpoints[2]
    assert len(made.policy) == 2  # the ingress rule, and the allowed egress


def test_only_the_longest_prefix_counts_and_loopback_is_closed() -> None:
    ipcache = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10, ip_network("10.0.0.0/8"): 1 << 31}
    ipcache |= {ip_network("127.0.0.1"): 1, ip_network("127.9.9.0/24"): 1 << 31, ip_network("::1"): 1}
    made = plan([(endpoint("a", 1, 70001, "10.0.0.1", "fd00::1"), EndpointPolicy())], ipcache)
    assert made.owner(IPv4Address("10.0.0.1")) == Owner(70001, 1)
    assert made.owner(IPv6Address("fd00::1")) == Owner(70001, 1)
    assert made.owner(IPv4Address("10.0.0.2")) == Owner(1 << 31)
    assert made.owner(IPv4Address("192.0.2.1")) == Owner(9)
    for closed in ("127.0.0.1", "127.9.9.9", "::1"):
        assert made.owner(ip_address(closed)) == Owner(0)
        assert made.judge(IPv4Address("10.0.0.1"), ip_address(closed), Protocol.TCP, 15001) == DENY


def test_ipv4_written_as_ipv6_takes_nobodys_address() -> None:
    made = plan(
        [(endpoint("a", 1, 70001, "10.0.0.1"), EndpointPolicy())],
        {
            ip_network("0.0.0.0/0"): 9,
            ip_network("::/0"): 10,
            ip_network("::ffff:10.0.0.1/128"): 1 << 31,
            ip_network("::ffff:127.0.0.0/104"): (1 << 31) + 1,
        },
    )
    keys = [layout.IPCACHE.encode_key(network) for network in made.ipcache]
    assert len(keys) == len(set(keys))
    held = {
        layout.IPCACHE.decode_key(key): made.ipcache[network] for key, network in zip(keys, made.ipcache, strict=True)
    }
    assert held[ip_network("10.0.0.1/32")] == Owner(70001, 1)
    assert held[ip_network("127.0.0.0/8")] == Owner(0)


def test_both_ends_must_agree_and_the_host_reaches_its_endpoints() -> None:
    client, server = endpoint("client", 1, 70001, "10.0.0.1"), endpoint("server", 2, 70002, "10.0.0.2")
    shut = DirectionPolicy(default_deny=True)
    open_to_client = EndpointPolicy(ingress=DirectionPolicy(True, (rule({70001}, tcp(80)), LOCAL_HOST)))
    ipcache = {ip_network("0.0.0.0/0"): 9, ip_network("10.0.0.254"): 1}

    def effect(egress: DirectionPolicy, source: str) -> Effect:
        made = plan([(client, EndpointPolicy(egress=egress)), (server, open_to_client)], ipcache)
        return made.judge(ip_address(source), IPv4Address("10.0.0.2"), Protocol.TCP, 80)

    assert effect(DirectionPolicy(), "10.0.0.1") == ALLOW
    assert effect(shut, "10.0.0.1") == DENY
    assert effect(DirectionPolicy(True, (rule({70002}, tcp(80), l7=HTTP),)), "10.0.0.1") == REDIRECT
    assert effect(DirectionPolicy(), "192.0.2.1") == DENY
    assert effect(DirectionPolicy(), "10.0.0.254") == ALLOW


def test_only_a_deny_keeps_the_host_from_its_endpoints() -> None:
    server = endpoint("server", 2, 70002, "10.0.0.2")
    ipcache = {ip_network("0.0.0.0/0"): 9, ip_network("10.0.0.254"): 1}

    def effect(*rules: ResolvedRule) -> Effect:
        made = plan([(server, EndpointPolicy(ingress=DirectionPolicy(True, (*rules, LOCAL_HOST))))], ipcache)
        return made.judge(IPv4Address("10.0.0.254"), IPv4Address("10.0.0.2"), Protocol.TCP, 80)

    assert effect() == ALLOW
    assert effect(rule(None, tcp(80), l7=HTTP)) == ALLOW
    assert effect(rule({1}, tcp(80), deny=True)) == DENY


def test_the_host_cannot_reach_an_endpoint_that_no_plan_names() -> None:
    made = DatapathPlan(ipcache={ip_network("10.0.0.254/32"): Owner(1), ip_network("10.0.0.2/32"): Owner(70002, 2)})
    assert made.judge(IPv4Address("10.0.0.254"), IPv4Address("10.0.0.2"), Protocol.TCP, 80) == DENY


def test_a_workload_elsewhere_gets_no_policy() -> None:
    made = plan([(endpoint("far", 0, 70001, "10.1.0.1"), EndpointPolicy())], {ip_network("10.1.0.1"): 70001})
    assert made.endpoints == {} and made.policy == {}
    assert made.owner(IPv4Address("10.1.0.1")) == Owner(70001)


def test_diff_leads_from_one_plan_to_the_other() -> None:
    def make(*ports: int) -> DatapathPlan:
        policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule({70001}, *map(tcp, ports)),)))
        return plan([(endpoint("a", 1, 70002, "10.0.0.2"), policy)], {})

    before, after = make(80), make(80, 8080)
    changes = diff(before, after)
    assert len(changes.ipcache) == 0
    assert set(changes.endpoints.put) == {1}
    # The changed policy comes whole under a new number: nothing that is in force is touched before endpoints move.
    assert not set(changes.policy.put) & set(before.policy)
    assert {
        **{k: v for k, v in before.policy.items() if k not in changes.policy.gone},
        **changes.policy.put,
    } == after.policy
    assert len(diff(after, make(80, 8080))) == 0


# The same objects again and again, as they come from a world that most changes leave alone; two have equal rules.
HALVES = [DirectionPolicy(True, (rule({70001}, tcp(port)),)) for port in (80, 81, 80)] + [DirectionPolicy()]
nodes = st.dictionaries(
    st.integers(1, 4), st.builds(EndpointPolicy, st.sampled_from(HALVES), st.sampled_from(HALVES)), max_size=4
)


@given(st.lists(nodes, min_size=2, max_size=5))
def test_a_planner_that_goes_on_says_what_a_new_one_says(steps: list[dict[int, EndpointPolicy]]) -> None:
    planner = Planner()
    before = DatapathPlan()
    for step in steps:
        node = [(endpoint(f"e{number}", number, 70000 + number), policy) for number, policy in step.items()]
        fresh, made = plan(node, {}), planner.plan(node, {})
        assert made == fresh
        read = DatapathPlan(made.policy, made.endpoints, made.ipcache)  # as from the kernel
        assert diff(before, made) == diff(before, fresh) == diff(before, read)
        before = made


def test_the_policy_that_lets_in_anybody_has_a_number_of_its_own() -> None:
    """By which the programs know it, on every node and at all times."""
    everybody = digest_of({(ANYONE, EVERYTHING): ALLOW})
    assert number_of(everybody, ()) == number_of(everybody, {OPEN_POLICY}) == OPEN_POLICY
    for first in (0, OPEN_POLICY, 2**32 - 1):
        digest = first.to_bytes(4, "big") + bytes(12)
        assert number_of(digest, {2**32 - 1}) > OPEN_POLICY
