"""Reading and rotating the log of denied and logged requests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from lockgate.envoy.config.access_log import FORMAT, NO_ROUTES, LoggedKafka, Rotation, parse

LINE: dict[str, Any] = {
    "time": "2026-03-01T12:00:00.250000+00:00",
    "source": "10.9.0.2:44645",
    "destination": "10.9.0.10:8080",
    "method": "GET",
    "path": "/secret?a=1",
    "host": "api",
    "code": 403,
    "details": "rbac_access_denied_matched_policy[default/web:spec.ingress[0].toPorts[0]]",
    "protocol": "HTTP/1.1",
    "content_type": None,
    "source_identity": "49:70001:in",
    "destination_identity": "9:9:out",
    "mismatches": None,
}


def test_a_line() -> None:
    request = parse(json.dumps(LINE))
    assert request.time == datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=UTC)
    assert (str(request.source), str(request.destination)) == ("10.9.0.2:44645", "10.9.0.10:8080")
    assert (request.method, request.path, request.host) == ("GET", "/secret?a=1", "api")
    assert request.code == 403
    assert request.rule == "default/web:spec.ingress[0].toPorts[0]"
    assert (request.protocol, request.mismatches) == ("HTTP/1.1", ())
    assert (request.source_identity, request.destination_identity) == (70_001, 9)


@pytest.mark.parametrize("end", [None, "nobody", "", "-"])
def test_an_end_that_is_nobodys(end: str | None) -> None:
    assert parse(json.dumps({**LINE, "source_identity": end})).source_identity == 0


def test_header_matches_that_were_logged() -> None:
    logged = parse(json.dumps(LINE | {"mismatches": ["default/web:spec.ingress[0].toPorts[0] x-key", "b y"]}))
    assert logged.mismatches == ("default/web:spec.ingress[0].toPorts[0] x-key", "b y")


@pytest.mark.parametrize(
    ("content_type", "method"),
    [
        ("application/grpc", "a.B/Get"),
        ("application/grpc+proto", "a.B/Get"),
        ("application/grpc-web", ""),
        ("text/plain", ""),
        (None, ""),
    ],
)
def test_a_grpc_call_has_a_method(content_type: str | None, method: str) -> None:
    logged = parse(json.dumps(LINE | {"path": "/a.B/Get", "content_type": content_type}))
    assert logged.grpc_method == method


def test_the_format_writes_exactly_what_parse_reads() -> None:
    assert set(FORMAT) == set(LINE)


def test_an_ipv6_address() -> None:
    request = parse(json.dumps(LINE | {"source": "[fd00::2]:5", "destination": "[fd00::10]:80"}))
    assert (str(request.source.ip), request.source.port) == ("fd00::2", 5)
    assert str(request.destination) == "[fd00::10]:80"


@pytest.mark.parametrize(
    ("details", "rule"),
    [
        ("rbac_access_denied_matched_policy[none]", ""),
        ("rbac_access_denied", ""),
        (None, ""),
        ("rbac_access_denied_matched_policy[a]b]", "a]b"),
        ("route_not_found", NO_ROUTES),
        ("lockgate:greeting:renegotiation", "lockgate:greeting:renegotiation"),
    ],
)
def test_the_rule_that_denied(details: str | None, rule: str) -> None:
    assert parse(json.dumps(LINE | {"details": details})).rule == rule


def test_a_request_without_host_or_path() -> None:
    request = parse(json.dumps(LINE | {"host": None, "path": None}))
    assert (request.host, request.path) == (None, None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        '{"time": "2026-0',
        "[]",
        "{}",
        json.dumps(LINE | {"source": "pipe"}),
        json.dumps(LINE | {"source": "999.1.1.1:1"}),
        json.dumps(LINE | {"time": "yesterday"}),
        json.dumps(LINE | {"code": None}),
    ],
)
def test_a_damaged_line_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        parse(line)


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    rotation = Rotation(limit=10, keep=2)
    for number in range(5):
        log.write_text(f"generation {number}")
        assert rotation.rotate(log)
    assert not log.exists()
    assert (tmp_path / "requests.jsonl.1").read_text() == "generation 4"
    assert (tmp_path / "requests.jsonl.2").read_text() == "generation 3"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_small_or_absent_file_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "requests.jsonl"
    assert not Rotation(limit=10).rotate(log)
    log.write_text("x" * 9)
    assert not Rotation(limit=10).rotate(log)
    assert log.read_text() == "x" * 9


KAFKA_LINE = (
    b'{"time":"2026-01-02T03:04:05.000006+00:00","source":"10.0.0.1:5","destination":"[fd00::1]:9092","method":"Produce",'
    b'"path":"orders","host":"app","code":29,"details":"rbac_access_denied_matched_policy[default/p:spec.ingress[0]]",'
    b'"protocol":"kafka","mismatches":null,"kafka":{"api":"Produce","version":9,"client_id":"app","topics":["orders"]},'
    b'"source_identity":7,"destination_identity":8}'
)


def test_a_refused_kafka_request() -> None:
    logged = parse(KAFKA_LINE)
    assert logged.kafka == LoggedKafka("Produce", 9, "app", ("orders",))
    assert (logged.rule, logged.code, str(logged.destination)) == ("default/p:spec.ingress[0]", 29, "[fd00::1]:9092")
    assert (logged.source_identity, logged.destination_identity) == (7, 8)


def test_a_kafka_connection_that_was_ended() -> None:
    head, _, _ = KAFKA_LINE.partition(b'"kafka":')
    assert parse(head + b'"kafka":null,"source_identity":7,"destination_identity":8}').kafka is None
