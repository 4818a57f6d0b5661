"""Packets that the kernel dropped, as people are shown them."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from lockgate.agent.inspection.drop_event import (
    NOBODY,
    DropEvent,
    asked_as,
    asks_policies,
    blame,
    drop_event,
    drops_between,
    ends,
)
from lockgate.agent.inspection.flow_end import Directory, FlowVerdict
from lockgate.agent.inspection.flow_filter import FlowFilter
from lockgate.policies import Direction, World, parse_policies
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.explain import explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.redirect.drop_log import DroppedPacket
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.agent.flow_directory import DIRECTORY, GROUP


def test_drops_are_what_the_counters_grew_by() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def counter(reason: str, packets: int, dropped: bool = True) -> dict[str, Any]:
        return {
            "direction": "ingress",
            "reason": reason,
            "meaning": "because",
            "dropped": dropped,
            "packets": packets,
        }

    before = [counter("policy", 3), counter("allowed", 5, False)]
    after = [counter("policy", 5), counter("allowed", 9, False), counter("spoofed", 1), counter("fragment", 0)]
    first, second = drops_between(before, after, now)
    assert str(first) == "03:04:05.000  dropped  2 packets, ingress, policy: because"
    assert (second.reason, second.packets, second.to_json()["verdict"]) == ("spoofed", 1, "dropped")


def test_a_dropped_packet_has_names_too() -> None:
    packet = DroppedPacket(
        1_500_000_000,
        *(ip_address("10.0.0.2"), 40000, ip_address("203.0.113.1"), 53),
        *(17, 7, Reason.POLICY, Direction.EGRESS),
    )
    found = drop_event(packet, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), DIRECTORY)
    assert str(found) == (
        "03:04:06.500  dropped  default/frontend:40000 -> 203.0.113.1:53 (reserved:world)  UDP  egress, policy: "
        "no rule allows it, or one denies it"
    )
    assert found.to_json()["destination"]["identity"] == 9
    assert FlowFilter(FlowVerdict.DROPPED, source="frontend").wants(found)
    for wanted in (FlowFilter(FlowVerdict.DENIED), FlowFilter(path="x"), FlowFilter(destination="frontend")):
        assert not wanted.wants(found)


@pytest.mark.parametrize("direction", Direction)
def test_processes_of_the_node_are_named_by_where_it_was_dropped(direction: Direction) -> None:
    leaving = direction is Direction.EGRESS
    node, pod = (ip_address("10.0.0.1"), 40000), (ip_address("10.0.0.2"), 53)
    packet = DroppedPacket(1, *(*node, *pod) if leaving else (*pod, *node), *(17, GROUP, Reason.POLICY, direction))
    service, other = ends(packet, DIRECTORY) if leaving else reversed(ends(packet, DIRECTORY))
    assert (str(service), asked_as(service)) == ("prod/till:40000", "prod/till")
    assert (str(other), asked_as(other)) == ("default/frontend:53", "10.0.0.2")


WORLD = World.of(
    parse_policies(
        b"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: lock}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress: [{fromEndpoints: [{matchLabels: {app: friend}}]}]
  ingressDeny: [{fromEndpoints: [{matchLabels: {app: foe}}]}]
""",
        "lock.yaml",
    ).policies,
    [
        endpoint_of(Workload(app, "default", (("app", app),), ips=(ip_address(f"10.1.0.{number}"),)))
        for number, app in enumerate(("server", "friend", "foe", "stranger"), start=1)
    ],
)


def dropped(source: str, reason: Reason = Reason.POLICY, protocol: int = 6) -> DroppedPacket:
    ends = (ip_address(source), 40000, ip_address("10.1.0.1"), 80)
    return DroppedPacket(1_500_000_000, *ends, protocol, 7, reason, Direction.INGRESS)


def blamed(source: str) -> DropEvent:
    packet = dropped(source)
    explained = explain(WORLD, Flow(source, "10.1.0.1", 80, Protocol.TCP)).to_json()
    return drop_event(packet, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), Directory(), blame(explained))


def test_the_policy_that_denies_is_named() -> None:
    found = blamed("10.1.0.3")
    assert (found.blame.policy, found.blame.rule) == ("default/lock", "spec.ingressDeny[0]")
    assert str(found).endswith("ingress, policy: denied by default/lock:spec.ingressDeny[0]")


def test_where_nothing_allows_it_the_policies_that_were_asked_are_named() -> None:
    found = blamed("10.1.0.4")
    assert (found.blame.policy, found.blame.considered) == ("", ("default/lock",))
    assert found.to_json()["why"] == "no ingress rule of default/lock allows it"
    assert str(found).endswith("ingress, policy: no ingress rule of default/lock allows it")
    assert FlowFilter(policy="lock").wants(found) and FlowFilter(policy="default/lock").wants(found)
    assert not FlowFilter(policy="other").wants(found)


def test_nobody_is_blamed_for_what_the_policies_of_now_allow() -> None:
    found = blamed("10.1.0.2")
    assert found.blame == NOBODY
    assert found.to_json()["why"] == found.meaning


def test_only_what_policies_dropped_is_asked_about() -> None:
    assert asks_policies(dropped("10.1.0.3"))
    for other in (dropped("10.1.0.3", Reason.SPOOFED), dropped("10.1.0.3", protocol=47), dropped("0.0.0.0")):
        assert not asks_policies(other)
