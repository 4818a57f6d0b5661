"""Which connections Envoy takes up, and what is said of the requests inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from lockgate.policies import World, explain
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    HttpRule,
    HttpRules,
    Protocol,
    ResolvedRule,
    RuleOrigin,
    TlsContext,
    TlsRules,
)
from lockgate.policies.flow import Flow
from lockgate.policies.identity import Reserved, endpoint_of
from lockgate.policies.interception import Greeting, Interception, Taken, passed_over, take_up
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.request import HttpRequest, Request, TlsRequest
from lockgate.policies.tls_secret import TlsSecrets
from lockgate.policies.verdict import Judgement, Verdict, judge
from lockgate.policies.workload import Workload

SHOWN, OTHER = TlsContext(("default", "a"), "tls.crt", "tls.key"), TlsContext(("default", "b"), "tls.crt", "tls.key")
TRUSTED = TlsContext(("default", "a"), trusted_ca="ca.crt")
MISSING = replace(OTHER, lacks="secret default/b is missing")
READS = HttpRules((HttpRule(method="GET"),))
NAMED = Greeting(True, "a.example")


def rule(
    names: tuple[str, ...] = (),
    terminating: TlsContext | None = None,
    originating: TlsContext | None = None,
    l7: HttpRules | None = None,
    name: str = "p",
) -> ResolvedRule:
    origin = RuleOrigin("CiliumNetworkPolicy", "default", name, "spec.egress[0]", "p.yaml", 1)
    return ResolvedRule(origin, False, None, None, l7, TlsRules(names, terminating, originating))


def plain() -> ResolvedRule:
    return replace(rule(), tls=None)


@pytest.mark.parametrize(
    ("tls", "greeting", "why"),
    [
        (TlsRules(("a.example",)), NAMED, ""),
        (TlsRules((), SHOWN), Greeting(True), ""),
        (TlsRules((), None, TRUSTED), Greeting(False), ""),
        (TlsRules(("b.example",)), NAMED, "server name 'a.example' is not b.example"),
        (TlsRules(("b.example",)), Greeting(True), "the connection names no server, and the rule is for b.example"),
        (TlsRules(("a.example",)), Greeting(False), "the connection is not TLS"),
        (TlsRules((), SHOWN), Greeting(False), "the connection is not TLS"),
        (TlsRules((), None, TRUSTED), NAMED, "the connection is TLS already"),
    ],
)
def test_which_rule_speaks_about_which_connection(tls: TlsRules, greeting: Greeting, why: str) -> None:
    assert passed_over(tls, greeting) == why


@pytest.mark.parametrize(
    ("rules", "greeting", "taken"),
    [
        ([], NAMED, Taken()),
        ([plain(), rule(("a.example",))], NAMED, Taken()),
        ([rule(("a.example",), SHOWN, TRUSTED, READS)], NAMED, Taken(Interception(SHOWN, TRUSTED, True))),
        ([rule(("a.example",), SHOWN), plain()], NAMED, Taken(Interception(SHOWN, None, False))),
        ([rule(("a.example",)), rule((), SHOWN, None, READS)], NAMED, Taken(Interception(SHOWN, None, True))),
        ([rule(("b.example",), SHOWN), rule((), None, TRUSTED)], NAMED, Taken()),
        ([rule((), SHOWN), rule((), None, TRUSTED)], Greeting(False), Taken(Interception(None, TRUSTED, False))),
    ],
)  # fmt: skip
def test_what_is_taken_up(rules: list[ResolvedRule], greeting: Greeting, taken: Taken) -> None:
    assert take_up(rules, greeting) == taken


def judged(request: Request | None, *rules: ResolvedRule, default_deny: bool = True) -> Judgement:
    return judge(DirectionPolicy(default_deny, rules), 100, Protocol.TCP, 443, request)


def https(method: str = "GET", name: str = "a.example") -> HttpRequest:
    return HttpRequest(method, "/", server_name=name, encrypted=True)


def test_requests_inside_tls_are_judged() -> None:
    reading = rule(("a.example",), SHOWN, TRUSTED, READS)
    assert judged(https(), reading).verdict is Verdict.ALLOW
    assert judged(https("POST"), reading).verdict is Verdict.DENY
    assert judged(https(name="b.example"), reading).verdict is Verdict.DENY
    assert judged(HttpRequest("GET", "/"), reading).verdict is Verdict.DENY
    unknown = judged(TlsRequest("a.example"), reading)
    assert (unknown.verdict, unknown.redirected) == (Verdict.REDIRECT, True)
    assert unknown.reason == f"Envoy judges each request by {reading.origin}"
    assert judged(TlsRequest("b.example"), reading).verdict is Verdict.DENY
    # Also where another rule lets TLS connections with that name pass.
    assert judged(https("POST"), reading, rule(("a.example",))).verdict is Verdict.ALLOW


def test_what_stays_encrypted_is_not_read() -> None:
    assert judged(https("POST"), rule(("a.example",))).verdict is Verdict.ALLOW
    requests = replace(rule(l7=READS), tls=None)
    denied = judged(https(), requests)
    assert denied.verdict is Verdict.DENY
    assert denied.considered[0].why == "the connection is encrypted, and the rule reads requests"


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (
            [rule(("a.example",), MISSING, None, READS)],
            "default/p:spec.egress[0] cannot take the connection up: secret default/b is missing",
        ),
        (
            [rule(("a.example",), SHOWN), rule(("*.example",), OTHER, name="q")],
            "default/p:spec.egress[0] and default/q:spec.egress[0] name different TLS contexts for one connection",
        ),
        (
            [rule(("a.example",), SHOWN), rule((), SHOWN, TRUSTED, name="q")],
            "default/p:spec.egress[0] and default/q:spec.egress[0] name different TLS contexts for one connection",
        ),
    ],
)
def test_what_cannot_be_taken_up_is_denied(rules: list[ResolvedRule], why: str) -> None:
    denied = judged(https(), *rules)
    assert (denied.verdict, denied.reason, denied.interception) == (Verdict.DENY, why, None)
    assert judged(https(), *rules, rule(("a.example",))).verdict is Verdict.DENY
    # Unless somebody allows it as it is.
    assert judged(https(), *rules, plain()).verdict is Verdict.ALLOW
    assert judged(https(), *rules, default_deny=False).verdict is Verdict.ALLOW


POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: %s}
spec:
  endpointSelector: {matchLabels: {app: %s}}
  %s: [{toPorts: [{ports: [{port: "443", protocol: TCP}], %s}]}]
"""
TERMINATING, ORIGINATING = "terminatingTLS: {secret: {name: s}}", "originatingTLS: {secret: {name: s}}"


@pytest.fixture(name="secrets")
def a_secret_that_serves_for_all(tls_secret: str) -> TlsSecrets:
    return TlsSecrets(parse_policies(tls_secret.encode(), "s.yaml").secrets)


def explained(
    secrets: TlsSecrets,
    egress: str,
    ingress: str,
    data: Mapping[str, object],
    here: tuple[str, ...] = ("client", "server"),
) -> Verdict:
    """`here` are the ends that are on this node."""
    text = (POLICY % ("e", "client", "egress", egress)) + "---" + (POLICY % ("i", "server", "ingress", ingress))
    parsed = parse_policies(text.encode(), "p.yaml")
    assert parsed.problems == ()
    workloads = [Workload(name, "default", (("app", name),)) for name in ("client", "server")]
    endpoints = [endpoint_of(each, 7 * (each.name in here)) for each in workloads]
    world = World.of(parsed.policies, endpoints, tls=secrets)
    return explain(world, Flow.from_json({"from": "client", "to": "server", "port": 443, **data})).verdict


NAMES = "serverNames: [a.example]"
HTTPS = {"http": {"path": "/", "serverName": "a.example"}}
HTTP = {"http": {"path": "/"}}


@pytest.mark.parametrize(
    ("egress", "ingress", "data", "verdict"),
    [
        # What Envoy encrypts again has its name at the server's side as well; what it does not has none.
        (f"{TERMINATING}, {ORIGINATING}", NAMES, HTTPS, Verdict.ALLOW),
        (f"{TERMINATING}, {ORIGINATING}", NAMES, {"tls": {"serverName": "a.example"}}, Verdict.ALLOW),
        (TERMINATING, NAMES, HTTPS, Verdict.DENY),
        (TERMINATING, NAMES, {"tls": {"serverName": "a.example"}}, Verdict.DENY),
        (ORIGINATING, NAMES, HTTP, Verdict.DENY),
        # Once is enough.
        (f"{TERMINATING}, {ORIGINATING}", TERMINATING, HTTPS, Verdict.DENY),
        (TERMINATING, ORIGINATING, HTTPS, Verdict.DENY),
        (NAMES, TERMINATING, HTTPS, Verdict.ALLOW),
    ],
)
def test_the_servers_policy_sees_what_comes_out_of_envoy(
    secrets: TlsSecrets, egress: str, ingress: str, data: dict[str, object], verdict: Verdict
) -> None:
    assert explained(secrets, egress, ingress, data) is verdict


@pytest.mark.parametrize("egress", [f"{TERMINATING}, {ORIGINATING}", TERMINATING])
def test_each_node_has_an_envoy_of_its_own(secrets: TlsSecrets, egress: str) -> None:
    ingress = TERMINATING if ORIGINATING in egress else ORIGINATING
    assert explained(secrets, egress, ingress, HTTPS) is Verdict.DENY
    assert explained(secrets, egress, ingress, HTTPS, here=("server",)) is Verdict.ALLOW
    assert explained(secrets, egress, ingress, HTTPS, here=("client",)) is Verdict.ALLOW
    assert explained(secrets, egress, ingress, HTTPS, here=()) is Verdict.DENY, "nothing says that they are apart"


def test_requests_inside_of_what_was_tls_are_awaited(secrets: TlsSecrets) -> None:
    reads = "rules: {http: [{method: GET}]}"
    tls = {"tls": {"serverName": "a.example"}}
    assert explained(secrets, TERMINATING, reads, tls) is Verdict.REDIRECT
    assert explained(secrets, TERMINATING, reads, HTTPS) is Verdict.ALLOW
    assert explained(secrets, NAMES, reads, tls) is Verdict.DENY, "it is still TLS"


def test_tls_on_a_port_whose_requests_are_read_is_closed() -> None:
    """Whatever a plain rule says beside it: the proxy for requests cannot read TLS."""
    half = DirectionPolicy(True, (plain(), replace(plain(), l7=READS)))
    for request in (TlsRequest("a.example"), TlsRequest(), HttpRequest("GET", "/", encrypted=True)):
        said = judge(half, 7, Protocol.TCP, 443, request)
        assert (said.verdict, said.rule) == (Verdict.DENY, None)
        assert said.reason.startswith("the connection is TLS, and ")
    assert judge(half, 7, Protocol.TCP, 443, HttpRequest("GET", "/")).verdict is Verdict.ALLOW
    node = judge(half, Reserved.HOST, Protocol.TCP, 443, TlsRequest(), direction=Direction.INGRESS)
    assert node.verdict is Verdict.ALLOW  # past every proxy
    assert judge(half, Reserved.HOST, Protocol.TCP, 443, TlsRequest()).verdict is Verdict.DENY  # as a server
