"""Lines of Envoy's log as events with names, and the filters over events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lockgate.agent.inspection.flow_end import Directory, FlowEnd, FlowVerdict
from lockgate.agent.inspection.flow_event import FlowEvent, flow_event
from lockgate.agent.inspection.flow_filter import FlowFilter
from lockgate.envoy.config.access_log import parse
from lockgate.tests.unit.agent.flow_directory import DIRECTORY

RULE = "default/api:spec.ingress[0].toPorts[0]"


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


@pytest.mark.parametrize(
    "end", ["prod/api", "api", "till", "k8s:app=till", "reserved:world", "cidr:192.0.2.0/24", "10.9.9.9", "fd00::/8"]
)
def test_who_may_be_an_end(end: str) -> None:
    assert DIRECTORY.knows(end)
    assert Directory().knows("anybody"), "it knows nobody, and cannot tell"


@pytest.mark.parametrize("end", ["prod/apy", "default/api", "app=till", "world", "prod/"])
def test_what_nobody_is_called(end: str) -> None:
    assert not DIRECTORY.knows(end)
