"""Learned names: what addresses get their identity from, and that learning one more is a small step."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import DnsRule, Protocol
from lockgate.policies.fqdn import FqdnSelectors, LearnedIdentities, Place, fqdn_label, learned_labels, place_of
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.longest_prefix import LongestPrefix
from lockgate.policies.verdict import Verdict, judge
from lockgate.policies.workload import Endpoint, IPAddress, Workload
from lockgate.policies.world import World

API = DnsRule(match_name="api.example.com")
SUB = DnsRule(match_pattern="*.example.com")
ANY = DnsRule(match_pattern="*")
POLICY = b"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: front}}
  egress:
  - toFQDNs: [{matchName: api.example.com}]
    toPorts: [{ports: [{port: "443"}]}]
  - toFQDNs: [{matchPattern: "*.example.com"}]
    toPorts: [{ports: [{port: "80"}]}]
  - toFQDNs: [{matchPattern: "*.other.org"}]
    toPorts: [{ports: [{port: "81"}]}]
  - toCIDRSet: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}]
    toPorts: [{ports: [{port: "82"}]}]
  - toEntities: [world-ipv6]
    toPorts: [{ports: [{port: "83"}]}]
  egressDeny:
  - toCIDR: [192.0.2.9/32]
"""
FRONT = endpoint_of(Workload("front", "default", (("app", "front"),), ips=(ip_address("10.0.0.1"),)))
HOSTS = (ip_address("192.0.2.1"),)


def world(names: Mapping[str, frozenset[IPAddress]], previous: World | None = None) -> World:
    (policy,) = parse_policies(POLICY, "p.yaml").policies
    return World.of([policy], [FRONT], hosts=HOSTS, names=names, previous=previous)


def allowed(now: World, address: IPAddress, front: Endpoint = FRONT) -> set[int]:
    policy = now.policy_of(front).egress
    identity = now.identity_at(address)
    return {
        port
        for port in (79, 80, 81, 82, 83, 443)
        if judge(policy, identity, Protocol.TCP, port).verdict is Verdict.ALLOW
    }


def shown(**names: str) -> dict[str, frozenset[IPAddress]]:
    return {name.replace("_", "."): frozenset(map(ip_address, text.split())) for name, text in names.items()}


def test_selectors_and_the_names_that_fit_them() -> None:
    selectors = FqdnSelectors([API, SUB])
    assert selectors.fitting(["api.example.com"]) == {API, SUB}
    assert selectors.fitting(["www.example.com"]) == {SUB}
    assert selectors.fitting(["example.com", "a.b.example.com"]) == frozenset()
    assert selectors.fitting(["x.org", "www.example.com"]) == {SUB}
    assert selectors.fitting([]) == frozenset()


def test_what_most_names_will_fit_is_known_before() -> None:
    assert FqdnSelectors([API, SUB]).expected() == {frozenset({API, SUB}), frozenset({SUB})}
    assert FqdnSelectors([API, SUB, ANY]).expected() == {*map(frozenset, ({API, SUB, ANY}, {SUB, ANY}, {ANY}))}
    assert FqdnSelectors([DnsRule(match_pattern="**.a.example")]).expected() == {
        frozenset({DnsRule(match_pattern="**.a.example")})
    }
    assert FqdnSelectors([]).expected() == set()


def test_the_memory_of_selectors_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lockgate.policies.fqdn._MOST_REMEMBERED", 4)
    selectors = FqdnSelectors([SUB])
    for number in range(20):
        assert selectors.fitting([f"n{number}.example.com"]) == {SUB}
    assert len(selectors._known) <= 4


def test_labels_name_selectors_and_the_prefix_around() -> None:
    assert str(fqdn_label(SUB)) == "fqdn:*.example.com"
    everywhere = Place(ip_network("0.0.0.0/0"), frozenset({SUB, API}))
    assert list(map(str, learned_labels(everywhere))) == [
        "fqdn:*.example.com",
        "fqdn:api.example.com",
        "reserved:world-ipv4",
    ]
    inside = Place(ip_network("2001:db8::/32"), frozenset({API}))
    assert list(map(str, learned_labels(inside))) == [
        "cidr:2001:db8::/32",
        "fqdn:api.example.com",
        "reserved:world-ipv6",
    ]


def test_a_place_must_be_somewhere() -> None:
    with pytest.raises(LookupError, match=r"no prefix holds 10\.0\.0\.1"):
        place_of(ip_address("10.0.0.1"), frozenset({API}), LongestPrefix({}))


def test_owners_and_numbers_agree() -> None:
    prefixes = LongestPrefix(dict.fromkeys([ip_network("0.0.0.0/0")]))
    place = Place(ip_network("0.0.0.0/0"), frozenset({API}))
    learned = LearnedIdentities(FqdnSelectors([API]), prefixes, {place: 7})
    address = ip_address("198.51.100.1")
    assert learned.number(address, frozenset({API})) == 7
    assert learned.number(address, frozenset({SUB})) is None
    assert learned.owners({address: frozenset({API})}) == {ip_network(address): 7}


def test_a_learned_address_is_allowed_what_its_names_and_its_place_are_allowed() -> None:
    now = world(
        shown(
            api_example_com="198.51.100.1 192.0.2.5 192.0.2.200 2001:db8::1 192.0.2.9",
            www_example_com="198.51.100.2 192.0.2.1 10.0.0.1",
            x_other_org="198.51.100.2",
            a_b_example_com="198.51.100.3",
        )
    )
    expected = {
        "198.51.100.1": {443, 80},
        "198.51.100.2": {80, 81},  # two names, each with its own
        "198.51.100.3": set(),  # a name that no selector means
        "192.0.2.5": {443, 80, 82},  # and the CIDR around it
        "192.0.2.200": {443, 80},  # an exception of the CIDR
        "192.0.2.9": set(),  # denied
        "2001:db8::1": {443, 80, 83},
        "2001:db8::2": {83},
        "192.0.2.6": {82},
        "192.0.2.1": set(),  # the host, whatever names it claims
        "10.0.0.1": set(),  # an endpoint
    }
    assert {text: allowed(now, ip_address(text)) for text in expected} == expected


def test_learning_more_addresses_changes_no_policy() -> None:
    before = world({})
    after = before.with_addresses({ip_address("198.51.100.1"): frozenset({"api.example.com"})})
    assert after is not None
    assert after.policy_of(FRONT) is before.policy_of(FRONT)
    assert after.identities is before.identities
    assert allowed(after, ip_address("198.51.100.1")) == {443, 80}
    assert allowed(before, ip_address("198.51.100.1")) == set()
    forgotten = after.with_addresses({ip_address("198.51.100.1"): frozenset()})
    assert forgotten is not None and forgotten.ipcache == before.ipcache
    same = before.with_addresses({ip_address("198.51.100.3"): frozenset({"nobody.asks"})})
    assert same is before


def test_an_identity_that_nobody_expected_needs_a_new_world() -> None:
    inside = {ip_address("192.0.2.77"): frozenset({"api.example.com"})}
    before = world({})
    assert before.with_addresses(inside) is None
    after = world({"api.example.com": frozenset(inside)}, previous=before)
    again = after.with_addresses({ip_address("192.0.2.78"): frozenset({"api.example.com"})})
    assert again is not None and allowed(again, ip_address("192.0.2.78")) == {443, 80, 82}


NAMES = ("api.example.com", "www.example.com", "x.other.org", "a.b.example.com", "elsewhere.net")
ADDRESSES: tuple[IPv4Address | IPv6Address, ...] = tuple(
    map(ip_address, ("198.51.100.1", "198.51.100.2", "192.0.2.5", "192.0.2.200", "192.0.2.9", "192.0.2.1", "10.0.0.1"))
)
learned = st.dictionaries(st.sampled_from(NAMES), st.frozensets(st.sampled_from(ADDRESSES), max_size=4))


@given(st.lists(learned, min_size=1, max_size=4))
def test_small_steps_lead_where_a_new_world_would(steps: list[dict[str, frozenset[IPAddress]]]) -> None:
    current = world({})
    for names in steps:
        changes = {
            address: frozenset(name for name, addresses in names.items() if address in addresses)
            for address in ADDRESSES
        }
        fresh = world(names, previous=current)
        step = current.with_addresses(changes)
        if step is not None:
            for address in ADDRESSES:
                assert step.identities[step.identity_at(address)] == fresh.identities[fresh.identity_at(address)]
                assert allowed(step, address) == allowed(fresh, address)
        current = step or fresh
