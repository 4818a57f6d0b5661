"""Lines of Envoy's log and counters of the kernel as events with names, and the filters over them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from lockgate.agent.inspection.flow_event import (
    NOBODY,
    Directory,
    DropEvent,
    FlowEnd,
    FlowEvent,
    FlowFilter,
    FlowVerdict,
    asked_as,
    asks_policies,
    blame,
    drop_event,
    drops_between,
    ends,
    flow_event,
)
from lockgate.envoy.config.access_log import parse
from lockgate.policies import Direction, World, parse_policies
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.explain import explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.redirect.drop_log import DroppedPacket
from lockgate.redirect.plan import GROUP_ENDPOINT
from lockgate.redirect.reason import Reason

GROUP = GROUP_ENDPOINT | 4711
RULE = "default/api:spec.ingress[0].toPorts[0]"
DIRECTORY = Directory(
    [
        {
            "endpoint": "default/frontend",
            "ips": ["10.0.0.2", "fd00::2"],
            "identity": 300,
            "labels": ["k8s:app=frontend"],
        },
        {"endpoint": "prod/api", "ips": ["10.0.0.3"], "identity": 301, "labels": ["k8s:app=api"]},
        {
            "endpoint": "prod/till",
            "id": GROUP,
            "cgroup": "/till",
            "ips": [],
            "identity": 302,
            "labels": ["k8s:app=till"],
        },
    ],
    [
        {"identity": 9, "labels": ["reserved:world"], "prefixes": ["0.0.0.0/0"]},
        {"identity": 1, "labels": ["reserved:host"], "prefixes": ["10.0.0.1/32"]},
        {"identity": 500, "labels": ["cidr:192.0.2.0/24"], "prefixes": ["192.0.2.0/24"]},
    ],
)


def event(rule: str = f"no-rule-matched:{RULE}", **fields: Any) -> FlowEvent:
    details = f"rbac_access_denied_matched_policy[{rule}]" if rule else "via_upstream"
    record = {
        "time": "2026-01-02T03:04:05.678901+00:00",
        "source": "10.0.0.2:40000",
        "destination": "10.0.0.3:80",
        "method": "POST",
        "path": "/users?all=1",
        "host": "api",
        "code": 403,
        "details": details,
        "protocol": "HTTP/1.1",
        "source_identity": "44:300:in",
        "destination_identity": "45:301:out",
        "mismatches": None,
    }
    return flow_event(parse(json.dumps(record | fields)), DIRECTORY)


def test_a_denial_names_the_ends_and_the_rules() -> None:
    found = event()
    assert str(found) == (
        "03:04:05.678  denied   default/frontend:40000 -> prod/api:80  POST /users?all=1  403  "
        f"no request rule of {RULE} matches"
    )
    shown = found.to_json()
    assert (shown["verdict"], shown["policy"], shown["considered"]) == ("denied", "", [RULE])
    assert shown["source"] == {
        "ip": "10.0.0.2",
        "port": 40000,
        "endpoint": "default/frontend",
        "identity": 300,
        "labels": ["k8s:app=frontend"],
    }
    assert shown["http"] == {
        "method": "POST",
        "path": "/users?all=1",
        "host": "api",
        "protocol": "HTTP/1.1",
        "code": 403,
    }


def test_who_comes_with_the_nodes_address_is_who_envoy_took_it_for() -> None:
    came: dict[str, Any] = {"source": "10.0.0.1:40000", "source_identity": "44:300:in"}
    assert event(**came).source == FlowEnd("10.0.0.1", 40000, "default/frontend", 300, ("k8s:app=frontend",))
    assert event(**came | {"source_identity": None}).source.labels == ("reserved:host",)


@pytest.mark.parametrize(
    ("name", "policy", "why"),
    [
        (RULE, "default/api", f"denied by {RULE}"),
        (f"no-rule-matched:{RULE},b:c,and-2-more", "", f"no request rule of {RULE}, b:c, and-2-more matches"),
        ("identity:301:ingress:no-rule-matched", "", "no ingress rule of prod/api is about this peer and port"),
        ("identity:300:egress:no-rule-matched", "", "no egress rule of default/frontend is about this peer and port"),
        ("node:unknown-identity", "", "Envoy has not been told yet who an end of this node is"),
        ("lockgate:no-policy-received", "", "no policy has reached Envoy yet"),
        ("lockgate:no-routes-received", "", "no routes have reached Envoy yet"),
        ("none", "", "refused, and Envoy did not say by what"),
    ],
)
def test_what_decided_in_words(name: str, policy: str, why: str) -> None:
    found = event(name)
    assert (found.policy, found.why, found.verdict) == (policy, why, FlowVerdict.DENIED)


def test_a_request_that_passed_with_a_mismatch() -> None:
    found = event("", code=200, mismatches=[f"{RULE} x-team"])
    assert (found.verdict, found.mismatches) == (FlowVerdict.LOGGED, ((RULE, "x-team"),))
    assert found.why == f"passed with a mismatch of x-team ({RULE})"
    assert found.to_json()["mismatches"] == [{"rule": RULE, "header": "x-team"}]


@pytest.mark.parametrize(
    ("what", "why"), [("renegotiation", "renegotiation"), ("another-server-name", "by another name"), ("new", "new")]
)
def test_a_client_that_greets_again(what: str, why: str) -> None:
    found = event(details=f"lockgate:greeting:{what}", protocol="TLS", code=0)
    assert (found.policy, found.verdict) == ("", FlowVerdict.DENIED) and why in found.why


def test_tls_and_unknown_ends() -> None:
    found = event(RULE, protocol="TLS", method="-", path="-", host="a.example", code=0, destination="192.0.2.7:443")
    assert (found.destination.identity, found.destination.endpoint) == (500, "")
    assert "default/frontend:40000 -> 192.0.2.7:443  TLS a.example  -  " in str(found)
    assert "-> 203.0.113.1:443 (reserved:world)" in str(event(destination="203.0.113.1:443"))
    assert "-> [2001:db8::1]:443" in str(event(destination="[2001:db8::1]:443"))


@pytest.mark.parametrize(
    ("wanted", "passes"),
    [
        (FlowFilter(), True),
        (FlowFilter(FlowVerdict.DENIED), True),
        (FlowFilter(FlowVerdict.LOGGED), False),
        (FlowFilter(source="default/frontend"), True),
        (FlowFilter(source="frontend", destination="api"), True),
        (FlowFilter(source="10.0.0.0/24"), True),
        (FlowFilter(source="10.1.0.0/24"), False),
        (FlowFilter(source="fd00::/64"), False),
        (FlowFilter(source="k8s:app=frontend"), True),
        (FlowFilter(destination="10.0.0.3"), True),
        (FlowFilter(destination="default/api"), False),
        (FlowFilter(path="^/users"), True),
        (FlowFilter(path="admin"), False),
        (FlowFilter(method="GET"), False),
        (FlowFilter(policy="default/api"), True),
        (FlowFilter(policy="api"), True),
        (FlowFilter(policy="other"), False),
    ],
)
def test_filters(wanted: FlowFilter, passes: bool) -> None:
    assert wanted.wants(event()) is passes


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
