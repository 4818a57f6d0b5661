"""What a change needs in the maps, and what documents ask for."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from lockgate.policies import EndpointPolicy
from lockgate.policies.endpoint_policy import DirectionPolicy, PortSpan, Protocol, ResolvedRule, RuleOrigin
from lockgate.redirect.map_changes import Table
from lockgate.redirect.plan import (
    ALLOW,
    DatapathPlan,
    EndpointPolicies,
    Owner,
    PolicyKey,
    ProxyPorts,
    compile_direction,
)
from lockgate.redirect.port_prefix import EVERYTHING
from lockgate.redirect.room import asked, need

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
