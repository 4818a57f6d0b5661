"""A connection whose end has become another's goes on as long as the rules about both say the same."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from lockgate.policies.changed_ends import ChangedEnds, in_other_hands
from lockgate.policies.identity import Reserved, endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.world import World

WORKLOADS = b"""
workloads:
- {name: api, labels: {app: api}, ips: [10.0.0.2]}
- {name: other, labels: {app: other}, ips: [10.0.0.3]}
"""
API, NEAR, FAR = map(ip_address, ("10.0.0.2", "192.0.2.1", "198.51.100.1"))
ALL, ONE = ip_network("192.0.2.0/24"), ip_network("192.0.2.1/32")
GET, POST = "{http: [{method: GET}]}", "{http: [{method: POST}]}"
ADD = '{http: [{method: GET, headerMatches: [{name: x, value: "1", mismatch: ADD}]}]}'
KAFKA = "{kafka: [{role: produce}]}"


def rule(cidr: object, l7: str = "", direction: str = "ingress", port: int = 80) -> str:
    """One entry of the direction."""
    peers = "fromCIDR" if "ingress" in direction else "toCIDR"
    rules = f", rules: {l7}" if l7 else ""
    return f'  - {peers}: ["{cidr}"]\n    toPorts: [{{ports: [{{port: "{port}", protocol: TCP}}]{rules}}}]\n'


def world(*entries: str, direction: str = "ingress", app: str = "api") -> World:
    """The rules of one policy, and one of the other workload's which says that NEAR is somebody of its own."""
    text = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: policy}\nspec:\n"
        f"  endpointSelector: {{matchLabels: {{app: {app}}}}}\n  {direction}:\n" + "".join(entries)
    )
    both = rule(ALL, GET) + rule(ONE, GET)
    text += (
        "\n---\napiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: names-them}\nspec:\n"
        "  endpointSelector: {matchLabels: {app: other}}\n  ingress:\n" + both
    )
    parsed = parse_policies(text.encode(), "p.yaml")
    assert parsed.ok, parsed.problems
    endpoints = [endpoint_of(each) for each in parse_workloads(WORKLOADS, "w.yaml").workloads]
    return World.of(parsed.policies, [replace(each, ifindex=at) for at, each in enumerate(endpoints, start=2)])


def identity(of: World, network: object) -> int:
    return of.ipcache[ip_network(str(network))]


def goes_on(before: World | None, after: World, port: int = 80, egress: bool = False) -> bool:
    """A connection of NEAR's (or to it), made when it was one of ALL, now that it is ONE."""
    was, is_now, api = identity(after, ALL), identity(after, ONE), after.identity_at(API)
    assert was != is_now
    if egress:
        return ChangedEnds(before, after).goes_on((api, was), (api, is_now), API, NEAR, port)
    return ChangedEnds(before, after).goes_on((was, api), (is_now, api), NEAR, API, port)


@pytest.mark.parametrize("egress", [False, True], ids=["ingress", "egress"])
@pytest.mark.parametrize(
    ("rules", "lives"),
    [
        ([(ALL, GET)], True),  # ONE is in ALL
        ([(ALL, GET), (ONE, GET)], True),
        ([(ALL, GET), (ONE, POST)], True),  # more is allowed; what is carried goes by less
        ([(ALL, GET), (ONE, "")], True),
        ([(ALL, GET), (ONE, ADD)], False),  # its requests would have to be changed
        ([(ALL, GET), (ONE, KAFKA)], False),  # two proxies clash
    ],
)
def test_by_what_the_rules_say_now(rules: list[tuple[object, str]], lives: bool, egress: bool) -> None:
    direction = "egress" if egress else "ingress"
    after = world(*(rule(cidr, l7, direction) for cidr, l7 in rules), direction=direction)
    assert goes_on(after, after, egress=egress) is lives
    assert goes_on(None, after, egress=egress) is lives
    assert goes_on(after, after, 81, egress), "nobody speaks of that port"


NOT_ONE = '  - fromCIDRSet: [{cidr: 192.0.2.0/24, except: ["192.0.2.1/32"]}]\n' + rule(ALL, GET).partition("\n")[2]


@pytest.mark.parametrize("more", ["", rule(ONE, POST), rule(ONE, KAFKA)])
def test_a_rule_that_is_not_about_it_any_more_ends_it(more: str) -> None:
    after = world(NOT_ONE, more)
    assert not goes_on(world(rule(ALL, GET)), after)
    assert not goes_on(None, after)


def test_what_is_still_allowed_is_not_refused_by_rules_about_who_it_was() -> None:
    """The rules have gone over from the one to the other: what is carried would be denied all of it."""
    before, after = world(rule(ALL, GET)), world(rule(ONE, GET))
    assert not goes_on(before, after)
    assert goes_on(world(rule(ALL, POST)), after), "it was not allowed this before either"


def test_a_deny_rule_ends_it() -> None:
    after = world(
        rule(ALL, GET) + '  ingressDeny:\n  - fromCIDR: ["192.0.2.1/32"]\n    toPorts: [{ports: [{port: "80"}]}]\n'
    )
    assert not goes_on(after, after)


def test_who_has_not_changed_is_not_asked_about() -> None:
    after = world(NOT_ONE)
    ends = (identity(after, ALL), after.identity_at(API))
    assert ChangedEnds(after, after).goes_on(ends, ends, NEAR, API, 80)


def test_other_hands() -> None:
    """Of workloads and hosts; addresses outside are nobody's hands."""
    after = world(rule(ALL, GET))
    api, other = after.identity_at(API), after.identity_at(ip_address("10.0.0.3"))
    all_of_it, one, anyone = identity(after, ALL), identity(after, ONE), int(Reserved.WORLD_IPV4)
    for made, now in [
        ((all_of_it, api), (one, api)),
        ((anyone, api), (one, api)),
        ((api, one), (api, int(Reserved.WORLD))),
    ]:
        assert not in_other_hands(made, now)
    for made, now in [
        ((api, other), (other, other)),
        ((api, other), (one, other)),
        ((one, api), (other, api)),
        ((int(Reserved.HOST), api), (anyone, api)),
        ((0, api), (one, api)),
    ]:
        assert in_other_hands(made, now)
        assert not ChangedEnds(after, after).goes_on(made, now, NEAR, FAR, 80)
