"""How `lockgate demo` judges and reports: above all that a disagreement is not overlooked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from lockgate.agent.demo import run, scenario
from lockgate.agent.demo.client import request
from lockgate.agent.demo.grpc_part import GRPC, GrpcCall
from lockgate.agent.demo.http_part import HTTP, HttpRequest
from lockgate.agent.demo.kafka_part import KAFKA, KafkaUse
from lockgate.agent.demo.part import PartName
from lockgate.agent.demo.run import Row
from lockgate.agent.demo.scenario import PARTS, Scenario
from lockgate.agent.errors import DemoError
from lockgate.policies import Flow
from lockgate.tests.command_line import Ended, lockgate

ROW = Row("frontend", "backend", 4, "GET :8080/", "200", "allow", "p:spec", "matches", "10.200.0.2", agrees=True)


def shown(monkeypatch: pytest.MonkeyPatch, rows: list[Row], *arguments: str) -> Ended:
    """The command, with a demonstration in which this happened."""

    @contextmanager
    def demonstration(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(ask_all=lambda _: iter(rows))

    def no_world(_: object) -> None:
        return None

    monkeypatch.setattr(run, "demonstration", demonstration)
    monkeypatch.setattr(run, "demo_world", no_world)
    return lockgate("demo", *arguments)


def test_agreement(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = shown(monkeypatch, [ROW])
    assert ended.status == 0
    assert ended.out.endswith("1 requests, 0 disagreements between the wire and the explanation\n")


@pytest.mark.parametrize("arguments", [(), ("-o", "json"), ("-o", "yaml")])
def test_a_disagreement_ends_with_1(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    ended = shown(monkeypatch, [ROW, replace(ROW, verdict="deny", agrees=False)], *arguments)
    assert ended.status == 1
    if not arguments:
        assert "deny: DISAGREES" in ended.out
        assert ended.out.endswith("2 requests, 1 disagreements between the wire and the explanation\n")
    if "json" in arguments:
        assert ended.data["agree"] is False


@pytest.mark.parametrize(
    ("result", "passed", "words"),
    [
        ({"outcome": "answered", "status": 200, "body": "x"}, True, "200"),
        ({"outcome": "answered", "status": 403, "body": "Access denied\r\n"}, False, "403 Access denied"),
        ({"outcome": "answered", "status": 403, "body": "the server's own\n"}, True, "403 the server's own"),
        ({"outcome": "dropped"}, False, "dropped"),
        ({"outcome": "refused"}, True, "refused"),
        ({"outcome": "closed"}, False, "closed"),
    ],
)
def test_what_a_client_met_is_judged(result: dict[str, Any], passed: bool, words: str) -> None:
    wanted = HttpRequest("frontend", "backend", 8080, "GET", "/")
    assert wanted.passed(result) is passed
    assert wanted.words(result) == words


@pytest.mark.parametrize(
    ("result", "passed", "words"),
    [
        ({"outcome": "answered", "code": "OK", "message": ""}, True, "OK"),
        (
            {"outcome": "answered", "code": "PERMISSION_DENIED", "message": "Access denied"},
            False,
            "PERMISSION_DENIED Access denied",
        ),
        (
            {"outcome": "answered", "code": "PERMISSION_DENIED", "message": "not yours"},
            True,
            "PERMISSION_DENIED not yours",
        ),
        ({"outcome": "dropped"}, False, "dropped"),
    ],
)
def test_what_a_grpc_client_met_is_judged(result: dict[str, Any], passed: bool, words: str) -> None:
    wanted = GrpcCall("shop", "shop.v1.Catalog", "Get")
    assert wanted.passed(result) is passed
    assert wanted.words(result) == words


@pytest.mark.parametrize(
    ("result", "passed", "words"),
    [
        ({"outcome": "answered", "error": ""}, True, "OK"),
        ({"outcome": "answered", "error": "TopicAuthorizationFailed"}, False, "TopicAuthorizationFailed"),
        ({"outcome": "answered", "error": "TopicAlreadyExists"}, True, "TopicAlreadyExists"),
        ({"outcome": "dropped"}, False, "dropped"),
    ],
)
def test_what_a_kafka_client_met_is_judged(result: dict[str, Any], passed: bool, words: str) -> None:
    wanted = KafkaUse("shop", "produce", "orders")
    assert wanted.passed(result) is passed
    assert wanted.words(result) == words


def test_a_part_whose_packages_are_not_there_is_left_out_unless_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts = {
        name: replace(part, needs=("no_such_package",) if name is PartName.KAFKA else ())
        for name, part in PARTS.items()
    }
    monkeypatch.setattr(scenario, "PARTS", parts)
    assert Scenario.of().requests == HTTP.requests + GRPC.requests
    with pytest.raises(DemoError, match="the kafka part needs no_such_package: install lockgate\\[demo\\]"):
        Scenario.of([PartName.KAFKA])


def test_a_client_that_nobody_answers() -> None:
    assert request("http://127.0.0.1:1/", "GET", 5.0, {})["outcome"] == "refused"


@pytest.mark.parametrize("wanted", Scenario.of().requests, ids=str)
def test_every_request_is_a_flow(wanted: Any) -> None:
    address = "fd00:200::3" if wanted.family == 6 else "10.200.0.3"
    flow = Flow.from_json(wanted.flow(address))
    assert (flow.source, flow.destination) == (f"default/{wanted.client}", f"default/{wanted.server}")
    order = wanted.order(address, 1.0)
    assert (
        order.get("target", order.get("url", ""))
        .removeprefix("http://")
        .startswith("[fd00:" if wanted.family == 6 else "10.")
    )


def test_parts_are_put_together() -> None:
    assert set(PARTS) == set(PartName)
    assert Scenario.of([PartName.HTTP]) == Scenario(HTTP.pods, HTTP.policies, HTTP.requests)
    whole = Scenario.of()
    assert whole.pods[:4] == HTTP.pods and whole.requests == HTTP.requests + GRPC.requests + KAFKA.requests
    assert len({pod.name for pod in whole.pods}) == len(whole.pods)
