"""What a change needs in the maps, and what documents ask for."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from lockgate.policies import EndpointPolicy
from lockgate.policies.endpoint_policy import DirectionPolicy, PortSpan, Protocol, ResolvedRule, RuleOrigin
from lockgate.redirect.map_changes import Table
from lockgate.redirect.plan import ALLOW, DatapathPlan, EndpointPolicies, Owner, PolicyKey, ProxyPorts
from lockgate.redirect.planner import compile_direction
from lockgate.redirect.port_prefix import EVERYTHING
from lockgate.redirect.room import asked, is_ample, need

ROOM = {Table.POLICY: 3, Table.ENDPOINTS: 1, Table.IPCACHE: 2}


def holding(policy: int, addresses: int, endpoints: int = 1) -> DatapathPlan:
    return DatapathPlan(
        {PolicyKey(policy, peer, EVERYTHING): ALLOW for peer in range(2)},
        {number: EndpointPolicies(policy, policy) for number in range(7, 7 + endpoints)},
        {ip_network(f"10.0.0.{number}"): Owner(number) for number in range(addresses)},
    )


@pytest.mark.parametrize(
    ("wanted", "lacking"),
    [
        (holding(2, 2), None),
        (holding(3, 1), Table.POLICY),  # the old entries stay until the new ones are there
        (holding(2, 3), Table.IPCACHE),
        (holding(2, 2, 2), Table.ENDPOINTS),
    ],
)
def test_what_was_counts_until_it_goes(wanted: DatapathPlan, lacking: Table | None) -> None:
    assert need(holding(2, 1), wanted, ROOM).lacking is lacking


def rule(name: str, peers: frozenset[int] | None, *spans: PortSpan) -> ResolvedRule:
    return ResolvedRule(RuleOrigin("NetworkPolicy", "default", name, "spec", "p.yaml", 1), False, peers, spans or None)


def test_documents_ask_for_an_entry_for_each_peer_and_prefix() -> None:
    tcp, pair = PortSpan(Protocol.TCP, 80, 80), PortSpan(Protocol.TCP, 81, 82)
    ingress = DirectionPolicy(True, (rule("a", frozenset({5, 6}), tcp, pair), rule("b", None), rule("a", None, tcp)))
    policy = EndpointPolicy(ingress, DirectionPolicy())
    found = asked([policy, policy])
    assert found == {("NetworkPolicy", "default", "a"): 7, ("NetworkPolicy", "default", "b"): 1}
    assert sum(found.values()) >= len(compile_direction(ingress, ProxyPorts()))
    assert found["NetworkPolicy", "default", "c"] == 0


@pytest.mark.parametrize(
    ("held", "ports", "addresses", "ample"),
    [
        (holding(2, 1), ((80, 80),), 1, True),
        (holding(2, 1), ((80, 81),), 1, False),  # up to thirty entries for each peer
        (holding(2, 1), ((80, 80), (90, 90), (91, 91), (92, 92)), 1, False),
        (holding(2, 1), ((80, 80),), 20, False),
        (holding(2, 9), ((80, 80),), 1, False),
        (holding(2, 1, 9), ((80, 80),), 1, False),
    ],
)
def test_where_nothing_has_to_be_counted(
    held: DatapathPlan, ports: tuple[tuple[int, int], ...], addresses: int, ample: bool
) -> None:
    spans = [PortSpan(Protocol.TCP, *each) for each in ports]
    policy = EndpointPolicy(DirectionPolicy(True, (rule("a", frozenset({5, 6}), *spans),)), DirectionPolicy())
    room = {Table.POLICY: 4 * (2 + 2 + 2), Table.IPCACHE: 4 * 9, Table.ENDPOINTS: 4 * 9}
    assert is_ample(held, [policy], addresses, room) is ample
