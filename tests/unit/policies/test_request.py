"""Request rules against requests."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import (
    DnsRule,
    DnsRules,
    GrpcRule,
    HeaderMatch,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    MismatchAction,
    TlsRules,
)
from lockgate.policies.header_action import HeaderAction
from lockgate.policies.kafka_api import API_KEYS, ROLE_KEYS, Role
from lockgate.policies.request import DnsRequest, HttpRequest, KafkaRequest, Request, TlsRequest, judge_l7

GET = HttpRequest("GET", "/a/b?c=d", "api.example", {"x-key": "v", "multi": "a,b"})

# rule, matches GET, reason
HTTP: list[tuple[HttpRule, bool, str]] = [
    (HttpRule(), True, "GET /a/b?c=d matches"),
    (HttpRule(path=r"/a/b\?c=d"), True, "GET /a/b?c=d matches"),
    (HttpRule(path="/a/.*"), True, "GET /a/b?c=d matches"),
    (HttpRule(path="/a/b"), False, "path /a/b?c=d does not match /a/b: the query string counts"),
    (
        HttpRule(path="/a"),
        False,
        "path /a/b?c=d does not match /a: the whole path counts, a prefix is written /a/.*",
    ),
    (HttpRule(path="/a/"), False, "path /a/b?c=d does not match /a/: the whole path counts, a prefix is written /a/.*"),
    (HttpRule(path="/A/.*"), False, "path /a/b?c=d does not match /A/.*"),
    (HttpRule(path="b"), False, "path /a/b?c=d does not match b"),
    (HttpRule(method="GET|PUT"), True, "GET /a/b?c=d matches"),
    (HttpRule(method="get"), False, "method GET is not get"),
    (HttpRule(method="POST"), False, "method GET is not POST"),
    (HttpRule(host=r"api\.example"), True, "GET /a/b?c=d matches"),
    (HttpRule(host="example"), False, "host 'api.example' is not example"),
    (HttpRule(headers=(HeaderMatch("x-key", "v"),)), True, "GET /a/b?c=d matches"),
    (HttpRule(headers=(HeaderMatch("x-key"),)), True, "GET /a/b?c=d matches"),
    (HttpRule(headers=(HeaderMatch("x-key", "V"),)), False, "header x-key is 'v', not 'V'"),
    (HttpRule(headers=(HeaderMatch("x-none"),)), False, "header x-none is missing"),
    (HttpRule(headers=(HeaderMatch("x-key:v"),)), False, "header x-key:v is missing"),
    (HttpRule(headers=(HeaderMatch("multi", "a,b"),)), True, "GET /a/b?c=d matches"),
    (HttpRule(headers=(HeaderMatch("multi", "a"),)), False, "header multi is 'a,b', not 'a'"),
    (HttpRule(headers=(HeaderMatch("host", "api.example"),)), True, "GET /a/b?c=d matches"),
    (HttpRule(headers=(HeaderMatch(":authority", "api.example"),)), True, "GET /a/b?c=d matches"),
    (HttpRule(headers=(HeaderMatch(":method", "GET"), HeaderMatch(":path"))), True, "GET /a/b?c=d matches"),
    (
        HttpRule(headers=(HeaderMatch("x-key", "other", secret=True),)),
        False,
        "header x-key is not the value of its secret",
    ),
    (HttpRule("/a/.*", "GET", "api.*", (HeaderMatch("x-key", "v"), HeaderMatch("y"))), False, "header y is missing"),
]


@pytest.mark.parametrize(("rule", "matched", "why"), HTTP, ids=[row[2][:50] for row in HTTP])
def test_http(rule: HttpRule, matched: bool, why: str) -> None:
    assert judge_l7(HttpRules((rule,)), None, GET)[:2] == (matched, why)


def test_several_rules_are_tried_and_all_reasons_told() -> None:
    rules = HttpRules((HttpRule(method="PUT"), HttpRule(path="/x"), HttpRule(method="PUT")))
    assert judge_l7(rules, None, GET).why == "method GET is not PUT; path /a/b?c=d does not match /x"
    many = HttpRules(tuple(HttpRule(path=f"/{number}") for number in range(9)))
    assert judge_l7(many, None, GET).why.endswith("does not match /4; and 4 more")
    found = judge_l7(HttpRules((HttpRule(method="PUT"), HttpRule())), None, GET)
    assert found[:2] == (True, "GET /a/b?c=d matches (rule 2 of 2)")


@pytest.mark.parametrize(
    "action", [MismatchAction.LOG, MismatchAction.ADD, MismatchAction.DELETE, MismatchAction.REPLACE]
)
def test_a_mismatch_action_holds_and_acts(action: MismatchAction) -> None:
    acting = HttpRule(headers=(HeaderMatch("x-key", "w", action),))
    assert judge_l7(HttpRules((acting,)), None, GET) == (
        True,
        "GET /a/b?c=d matches",
        (HeaderAction(action, "x-key", "w"),),
    )
    holding = HttpRule(headers=(HeaderMatch("x-key", "v", action),))
    assert judge_l7(HttpRules((holding,)), None, GET).actions == ()


def acting(name: str, value: str | None, action: MismatchAction, secret: bool = False) -> HeaderMatch:
    return HeaderMatch(name, value, action, secret)


def test_the_actions_of_every_rule_that_matches_apply() -> None:
    """As in the reference: a rule acts when its other conditions hold, and all rules are looked at."""
    rules = HttpRules(
        (
            HttpRule(path="/no", headers=(acting("a", "1", MismatchAction.ADD),)),
            HttpRule(headers=(HeaderMatch("x-none"), acting("a", "2", MismatchAction.ADD))),
            HttpRule(headers=(acting("a", "3", MismatchAction.ADD), HeaderMatch("x-key", "v"))),
            HttpRule(),
            HttpRule(headers=(acting("b", "4", MismatchAction.REPLACE, secret=True),)),
        )
    )
    found = judge_l7(rules, None, GET)
    assert (found.matched, found.why) == (True, "GET /a/b?c=d matches (rule 3 of 5)")
    assert found.actions == (
        HeaderAction(MismatchAction.ADD, "a", "3"),
        HeaderAction(MismatchAction.REPLACE, "b", "4", secret=True),
    )
    assert judge_l7(HttpRules(rules.http[:2]), None, GET) == (False, ANY_REASON, ())


ANY_REASON = "path /a/b?c=d does not match /no; header x-none is missing"


def test_a_secret_without_a_value_never_matches() -> None:
    for action in MismatchAction:
        lacking = HttpRule(headers=(HeaderMatch("x-key", None, action, lacks="default/token"),))
        found = judge_l7(HttpRules((lacking,)), None, GET)
        assert found == (False, "secret default/token gives no value for header x-key", ())


def test_a_value_that_came_from_a_secret_is_in_no_reason() -> None:
    changed = GET.after([HeaderAction(MismatchAction.REPLACE, "x-key", "hush", secret=True)])
    assert changed.header("x-key") == "hush"
    found = judge_l7(HttpRules((HttpRule(headers=(HeaderMatch("x-key", "v"),)),)), None, changed)
    assert found.why == "header x-key is a value from a secret, not 'v'"


@pytest.mark.parametrize(
    ("rule", "request_", "matched"),
    [
        (GrpcRule("a.B"), HttpRequest("POST", "/a.B/Get"), True),
        (GrpcRule("a.B", "Get"), HttpRequest("POST", "/a.B/Get"), True),
        (GrpcRule("a.B", "Get"), HttpRequest("POST", "/a.B/GetAll"), False),
        (GrpcRule("a.B", "Get"), HttpRequest("POST", "/a.B/Get?x"), False),
        (GrpcRule("a.B"), HttpRequest("POST", "/a.BC/Get"), False),
        (GrpcRule("a.B"), HttpRequest("GET", "/a.B/Get"), False),
    ],
)
def test_grpc(rule: GrpcRule, request_: HttpRequest, matched: bool) -> None:
    assert judge_l7(HttpRules(grpc=(rule,)), None, request_).matched is matched


PRODUCE, CONSUME = (ROLE_KEYS[role] for role in (Role.PRODUCE, Role.CONSUME))
KAFKA: list[tuple[list[KafkaRule], KafkaRequest, bool, str]] = [
    ([KafkaRule()], KafkaRequest(99), True, "Kafka 99 matches"),
    ([KafkaRule(PRODUCE)], KafkaRequest(0, topics=frozenset("a")), True, "Kafka produce matches"),
    ([KafkaRule(PRODUCE)], KafkaRequest(22), True, "Kafka initproducerid matches"),
    ([KafkaRule(PRODUCE)], KafkaRequest(1), False, "API fetch is not produce, metadata, apiversions, initproducerid"),
    ([KafkaRule(CONSUME)], KafkaRequest(11), True, "Kafka joingroup matches"),
    ([KafkaRule(CONSUME)], KafkaRequest(0), False, ""),
    ([KafkaRule(topic="a")], KafkaRequest(0, topics=frozenset("a")), True, "Kafka produce matches"),
    ([KafkaRule(topic="a")], KafkaRequest(0, topics=frozenset("ab")), False, "topic b is not allowed"),
    (
        [KafkaRule(topic="a"), KafkaRule(topic="b")],
        KafkaRequest(0, topics=frozenset("ab")),
        True,
        "Kafka produce matches",
    ),
    (
        [KafkaRule(PRODUCE, topic="a"), KafkaRule(CONSUME, topic="b")],
        KafkaRequest(0, topics=frozenset("ab")),
        False,
        "",
    ),
    ([KafkaRule(PRODUCE, topic="a")], KafkaRequest(18), True, "Kafka apiversions matches"),
    ([KafkaRule(topic="a")], KafkaRequest(3), True, "Kafka metadata matches"),
    ([KafkaRule(api_version=3)], KafkaRequest(0, 2), False, "API version 2 is not 3"),
    ([KafkaRule(client_id="c")], KafkaRequest(0, client_id="d"), False, "client id 'd' is not 'c'"),
    ([KafkaRule(client_id="c", api_version=3)], KafkaRequest(0, 3, "c"), True, "Kafka produce matches"),
]


@pytest.mark.parametrize(("rules", "request_", "matched", "why"), KAFKA)
def test_kafka(rules: list[KafkaRule], request_: KafkaRequest, matched: bool, why: str) -> None:
    found = judge_l7(KafkaRules(tuple(rules)), None, request_)
    assert found.matched is matched
    if why:
        assert found.why == why


def test_the_api_numbers_are_those_of_the_protocol() -> None:
    wanted = {"produce": 0, "fetch": 1, "metadata": 3, "offsetcommit": 8, "apiversions": 18, "createtopics": 19}
    assert wanted.items() <= API_KEYS.items()
    assert {
        "initproducerid": 22,
        "txnoffsetcommit": 28,
        "deletegroups": 42,
        "offsetdelete": 47,
    }.items() <= API_KEYS.items()


def test_dns() -> None:
    rules = DnsRules((DnsRule(match_name="a.example"), DnsRule(match_pattern="*.b.example")))
    assert judge_l7(rules, None, DnsRequest("A.example.")).why == "DNS query for A.example. matches a.example"
    assert judge_l7(rules, None, DnsRequest("x.b.example")).matched
    refused = judge_l7(rules, None, DnsRequest("c.example"))
    assert refused[:2] == (False, "DNS query for c.example is not for a.example or *.b.example")


def test_server_names() -> None:
    tls = TlsRules(("*.example", "exact.test"))
    assert judge_l7(None, tls, TlsRequest("a.example")).matched
    assert judge_l7(None, tls, TlsRequest("exact.test")).matched
    assert judge_l7(None, tls, TlsRequest("b.test")).why == "server name 'b.test' is not *.example or exact.test"
    unnamed = "the connection names no server, and the rule is for *.example or exact.test"
    assert judge_l7(None, tls, TlsRequest()).why == unnamed
    assert judge_l7(None, TlsRules(("*",)), TlsRequest("a.b.c")).matched
    assert not judge_l7(None, TlsRules(("*",)), TlsRequest()).matched
    inside = HttpRequest("GET", "/", server_name="a.example")
    assert judge_l7(HttpRules((HttpRule(),)), tls, inside).matched
    assert not judge_l7(HttpRules((HttpRule(path="/x"),)), tls, inside).matched


@pytest.mark.parametrize("request_", [KafkaRequest(0), DnsRequest("a"), TlsRequest("a")])
def test_another_kind_of_request_never_matches(request_: Request) -> None:
    found = judge_l7(HttpRules((HttpRule(),)), None, request_)
    assert found[:2] == (False, f"{request_} is not what the rule speaks about")
