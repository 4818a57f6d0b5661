"""The verdict function: its table, and what must hold for every policy."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    HeaderMatch,
    HttpRule,
    HttpRules,
    L7Rules,
    MismatchAction,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.proxy_kind import clash
from lockgate.policies.request import HttpRequest, Request
from lockgate.policies.verdict import Verdict, judge

_numbers = count()
GET_X = HttpRules((HttpRule(path="/x", method="GET"),))
TCP80 = (PortSpan(Protocol.TCP, 80, 80),)


def rule(
    peers: set[int] | None = None,
    ports: tuple[PortSpan, ...] | None = None,
    deny: bool = False,
    l7: L7Rules | None = None,
    name: str = "p",
) -> ResolvedRule:
    origin = RuleOrigin("CiliumNetworkPolicy", "default", name, "spec.ingress[0]", "p.yaml", 1)
    return ResolvedRule(origin, deny, None if peers is None else frozenset(peers), ports, None if deny else l7)


def verdict(
    *rules: ResolvedRule, default_deny: bool = True, peer: int = 100, port: int = 80, request: Request | None = None
) -> Verdict:
    return judge(DirectionPolicy(default_deny, rules), peer, Protocol.TCP, port, request).verdict


X, Y = HttpRequest("GET", "/x"), HttpRequest("GET", "/y")
TABLE = [
    ([], False, None, "allow"),
    ([], True, None, "deny"),
    ([rule()], True, None, "allow"),
    ([rule({100})], True, None, "allow"),
    ([rule({200})], True, None, "deny"),
    ([rule(set())], True, None, "deny"),
    ([rule(ports=())], True, None, "deny"),
    ([rule(ports=(PortSpan(Protocol.UDP, 80, 80),))], True, None, "deny"),
    ([rule(ports=(PortSpan(Protocol.TCP, 1, 79),))], True, None, "deny"),
    ([rule(deny=True)], False, None, "deny"),
    ([rule(), rule({100}, deny=True)], True, None, "deny"),
    ([rule(), rule({200}, deny=True)], True, None, "allow"),
    ([rule(l7=GET_X)], True, None, "redirect"),
    ([rule(l7=GET_X)], True, X, "allow"),
    ([rule(l7=GET_X)], True, Y, "deny"),
    ([rule(l7=GET_X)], False, Y, "allow"),
    ([rule(l7=GET_X)], False, None, "allow"),
    ([rule(l7=GET_X), rule()], True, Y, "allow"),
    ([rule(l7=GET_X), rule()], True, None, "allow"),
    ([rule(l7=GET_X), rule({200})], True, Y, "deny"),
    ([rule(l7=GET_X), rule(deny=True)], True, X, "deny"),
    ([rule({200}, l7=GET_X)], False, Y, "allow"),
    ([rule({200}, l7=GET_X)], True, X, "deny"),
]


@pytest.mark.parametrize(("rules", "default_deny", "request_", "expected"), TABLE)
def test_table(rules: list[ResolvedRule], default_deny: bool, request_: Request | None, expected: str) -> None:
    assert verdict(*rules, default_deny=default_deny, request=request_) == expected


def test_the_proof_names_every_rule_in_order() -> None:
    rules = (
        rule({200}, name="a"),
        rule(set(), name="b"),
        rule({100}, (PortSpan(Protocol.TCP, 443, 443), PortSpan(Protocol.UDP, 1, 9)), name="c"),
        rule({100}, (), name="d"),
        rule({100}, TCP80, l7=HttpRules((HttpRule(method="GET"), HttpRule(path="/x"))), name="e"),
        rule({100}, TCP80, l7=GET_X, name="f"),
    )
    found = judge(
        DirectionPolicy(True, rules), 100, Protocol.TCP, 80, HttpRequest("POST", "/x?y=1"), peer_name="default/front"
    )
    assert [(item.rule.origin.policy, item.matched, item.why) for item in found.considered] == [
        ("a", False, "default/front is not one of its peers"),
        ("b", False, "it selects nobody"),
        ("c", False, "TCP port 80 is not 443/TCP or 1-9/UDP"),
        ("d", False, "none of its named ports is known"),
        ("e", False, "method POST is not GET; path /x?y=1 does not match /x: the query string counts"),
        ("f", False, "method POST is not GET"),
    ]
    assert found.verdict is Verdict.DENY
    assert found.rule is None
    assert found.redirected
    assert found.reason == "no request rule of default/e:spec.ingress[0] allows it"


def test_the_deciding_rule_is_the_first_of_its_kind() -> None:
    rules = (rule(l7=GET_X, name="a"), rule(name="b"), rule(name="c"), rule({200}, deny=True, name="d"))
    found = judge(DirectionPolicy(True, rules), 100, Protocol.TCP, 80, X)
    assert (found.rule, found.reason) == (rules[1], "allowed by default/b:spec.ingress[0]")
    assert found.redirected
    denied = judge(DirectionPolicy(True, rules), 200, Protocol.TCP, 80, X)
    assert (denied.rule, denied.reason) == (rules[3], "denied by default/d:spec.ingress[0]")
    assert not denied.redirected


PEERS = st.sampled_from([100, 200, 300])
SPANS = st.builds(
    lambda protocol, first, width: PortSpan(protocol, first, first + width),
    st.sampled_from([Protocol.TCP, Protocol.UDP]),
    st.integers(78, 82),
    st.integers(0, 2),
)
HTTP = st.builds(
    HttpRule,
    path=st.sampled_from([None, "/x", "/x.*", "/(a|b)"]),
    method=st.sampled_from([None, "GET", "GET|POST"]),
)
L7 = st.none() | st.builds(HttpRules, st.lists(HTTP, min_size=1, max_size=3).map(tuple))
RULES = st.builds(
    lambda peers, ports, deny, l7: rule(
        peers, None if ports is None else tuple(ports), deny, l7 if ports is not None else None, f"p{next(_numbers)}"
    ),
    st.none() | st.sets(PEERS),
    st.none() | st.lists(SPANS, max_size=3),
    st.booleans(),
    L7,
)
POLICIES = st.builds(DirectionPolicy, st.booleans(), st.lists(RULES, max_size=6).map(tuple))
REQUESTS = st.none() | st.builds(
    HttpRequest, st.sampled_from(["GET", "POST"]), st.sampled_from(["/x", "/xy", "/a", "/c"])
)
FLOWS = st.tuples(PEERS, st.sampled_from([Protocol.TCP, Protocol.UDP]), st.integers(77, 84), REQUESTS)
Flow = tuple[int, Protocol, int, Request | None]


@given(POLICIES, RULES, FLOWS)
def test_an_allow_never_turns_allow_into_deny(policy: DirectionPolicy, extra: ResolvedRule, flow: Flow) -> None:
    before = judge(policy, *flow).verdict
    rules = (*policy.rules, replace(extra, deny=False))
    after = judge(replace(policy, rules=rules), *flow).verdict
    if clash([each for each in rules if each.covers(*flow[:3])], flow[1]):
        assert after is Verdict.DENY
    elif before is Verdict.ALLOW:
        assert after is Verdict.ALLOW
    elif before is Verdict.REDIRECT:
        assert after is not Verdict.DENY


@given(POLICIES, RULES, FLOWS)
def test_a_deny_never_turns_deny_into_allow(policy: DirectionPolicy, extra: ResolvedRule, flow: Flow) -> None:
    before = judge(policy, *flow).verdict
    denying = replace(extra, deny=True, l7=None)
    after = judge(replace(policy, rules=(*policy.rules, denying)), *flow).verdict
    if before is Verdict.DENY:
        assert after is Verdict.DENY
    assert after in (before, Verdict.DENY)
    if denying.covers(*flow[:3]):
        assert after is Verdict.DENY


@given(POLICIES, FLOWS, st.randoms(use_true_random=False))
def test_the_order_of_rules_is_irrelevant(policy: DirectionPolicy, flow: Flow, random: Random) -> None:
    shuffled = list(policy.rules)
    random.shuffle(shuffled)
    one, two = judge(policy, *flow), judge(replace(policy, rules=tuple(shuffled)), *flow)
    assert (one.verdict, one.redirected) == (two.verdict, two.redirected)
    assert sorted(str(item) for item in one.considered) == sorted(str(item) for item in two.considered)


@given(POLICIES, FLOWS)
def test_rules_that_do_not_cover_a_flow_do_not_matter(policy: DirectionPolicy, flow: Flow) -> None:
    covering = tuple(rule for rule in policy.rules if rule.covers(*flow[:3]))
    one, two = judge(policy, *flow), judge(replace(policy, rules=covering), *flow)
    assert (one.verdict, one.reason, one.rule) == (two.verdict, two.reason, two.rule)


@given(POLICIES, FLOWS)
def test_the_verdict_follows_from_the_proof(policy: DirectionPolicy, flow: Flow) -> None:
    found = judge(policy, *flow)
    assert [item.rule for item in found.considered] == list(policy.rules)
    matched = [item.rule for item in found.considered if item.matched]
    denied = any(rule.deny for rule in matched)
    allowed = any(not rule.deny and (not rule.redirects or flow[3] is not None) for rule in matched)
    waiting = any(rule.redirects for rule in matched) and flow[3] is None
    if denied or clash([rule for rule in policy.rules if rule.covers(*flow[:3])], flow[1]):
        assert found.verdict is Verdict.DENY
    elif allowed or not policy.default_deny:
        assert found.verdict is Verdict.ALLOW
    else:
        assert found.verdict is (Verdict.REDIRECT if waiting else Verdict.DENY)


@given(POLICIES, FLOWS)
def test_a_redirect_is_settled_by_the_request(policy: DirectionPolicy, flow: Flow) -> None:
    """REDIRECT only where some request passes or fails; without a request the answer is never more than Envoy's."""
    connection = judge(policy, *flow[:3], None)
    request = judge(policy, *flow[:3], HttpRequest("GET", "/x"))
    assert connection.redirected == request.redirected
    if connection.verdict is not Verdict.REDIRECT:
        assert request.verdict is connection.verdict


REPLACE = HttpRules((HttpRule("/x", headers=(HeaderMatch("x-role", "user", MismatchAction.REPLACE),)),))
ADD = HttpRules((HttpRule(headers=(HeaderMatch("x-role", "audit", MismatchAction.ADD),)),))


def acts(*rules: ResolvedRule, default_deny: bool = True, role: str = "admin") -> list[str]:
    request = HttpRequest("GET", "/x", headers={"x-role": role})
    return [str(each) for each in judge(DirectionPolicy(default_deny, rules), 100, Protocol.TCP, 80, request).actions]


def test_all_rules_act_in_their_order_on_the_request_as_it_came() -> None:
    replace, add = rule(l7=REPLACE, name="a"), rule(l7=ADD, name="b")
    assert acts(replace, add) == ["REPLACE x-role with 'user'", "ADD x-role with 'audit'"]
    assert acts(add, replace, add) == ["ADD x-role with 'audit'", "REPLACE x-role with 'user'"]
    assert acts(replace, add, role="audit") == ["REPLACE x-role with 'user'"]
    assert acts(replace, add, role="user") == ["ADD x-role with 'audit'"]


def test_rules_act_however_the_request_came_to_be_allowed() -> None:
    replace = rule(l7=REPLACE)
    assert acts(rule(), replace) == acts(rule(l7=GET_X), replace) == acts(replace) == ["REPLACE x-role with 'user'"]
    assert acts(replace, default_deny=False) == ["REPLACE x-role with 'user'"]
    assert acts(rule({200}, l7=REPLACE), rule()) == acts(rule(deny=True), replace) == []
