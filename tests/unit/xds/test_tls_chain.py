"""What is taken up, and what is judged in it: the listener's matcher and the filters behind it, run by a matcher
interpreter, against the verdict function."""

from __future__ import annotations

from dataclasses import replace

import pytest
from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import Composite
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac as HttpRbac
from envoy_data_plane.envoy.extensions.filters.network.rbac.v3 import Rbac as NetworkRbac
from envoy_data_plane.google.protobuf import StringValue
from envoy_data_plane.xds.type.matcher.v3 import Matcher
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HeaderMatch,
    HttpRule,
    HttpRules,
    MismatchAction,
    PortSpan,
    Protocol,
    ResolvedRule,
    TlsContext,
    TlsRules,
)
from lockgate.policies.interception import Greeting, Interception
from lockgate.policies.proxy_kind import ProxyKind, proxy_of
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.unit.xds.matcher_messages import Seen, changed, ends, evaluate, verdict
from lockgate.tests.unit.xds.policy_strategies import acting_rules, endpoint, http_rules, origin, requests, rules
from lockgate.xds.compile.header_condition import ABSENT_FORWARDED_PROTO
from lockgate.xds.compile.tls_chain import CARRIED, OWN_ADDRESS, Chain
from lockgate.xds.compile.tls_rbac import TAKEN_INGRESS, TLS_FILTERS, TLS_HTTP_FILTERS, TlsCompiler, TlsPolicy

PORTS = (443, 8443)
PEERS = {"10.0.0.1": 300, "10.0.0.2": 301, "10.9.9.9": 9, "fd00::2": 301}
OWN = endpoint("default/own", 400, "10.0.0.9", "fd00::9")
EVERY = frozenset((OWN.identity, direction) for direction in Direction)
NAMES = ("a.example", "x.a.example", "b.example")
GREETINGS = (Greeting(False), Greeting(True), *(Greeting(True, name) for name in NAMES))

A, B = (TlsContext(("default", name), "tls.crt", "tls.key") for name in "ab")
CA, CB = (TlsContext(("default", name), trusted_ca="ca.crt") for name in "ab")
MISSING = TlsContext(("default", "c"), "tls.crt", "tls.key", lacks="secret default/c is missing")

NAME_LISTS = (
    (),
    (),
    ("a.example",),
    ("b.example",),
    ("a.example", "b.example"),
    ("*.a.example",),
    ("**.example",),
    ("*",),
)
some_names = st.sampled_from([names for names in NAME_LISTS if names])
tls_rules = st.one_of(
    st.builds(TlsRules, some_names),
    st.builds(
        TlsRules,
        some_names.map(tuple),
        st.sampled_from([A, A, A, B, MISSING]),
        st.sampled_from([None, None, CA, CA, CB]),
    ),
    st.builds(TlsRules, st.just(()), st.none(), st.sampled_from([CA, CA, CB])),
)
l7 = st.none() | st.builds(
    HttpRules, st.lists(st.one_of(http_rules, acting_rules), min_size=1, max_size=2).map(tuple)
)  # fmt: skip


@st.composite
def about_tls(draw: st.DrawFn) -> ResolvedRule:
    rule, tls = draw(rules(PORTS, sorted(set(PEERS.values())))), draw(tls_rules)
    only_names = tls.terminating is None and tls.originating is None
    return replace(rule, deny=False, l7=None if only_names else draw(l7), tls=tls)


halves = st.builds(
    DirectionPolicy,
    st.sampled_from([True, True, True, False]),
    st.lists(st.one_of(*[about_tls()] * 4, rules(PORTS, sorted(set(PEERS.values())))), max_size=4).map(tuple),
)


def message(policy: TlsPolicy, name: str, kind: type[Message]) -> Message:
    body = next(resource.body for resource in policy.filters if resource.name == name)
    packed = TypedExtensionConfig.parse(body).typed_config
    assert packed is not None
    return kind.parse(packed.value)


class Node:
    """The TLS listeners, as far as one direction of one endpoint goes."""

    def __init__(self, half: DirectionPolicy, direction: Direction) -> None:
        self.direction = direction
        self.policy = TlsCompiler().compile([(OWN, EndpointPolicy(**{direction: half}))], EVERY)
        self._chains = {chain.name: chain for chain in self.policy.chains}
        self._matcher = Matcher.parse(self.policy.matcher)
        self._network = message(self.policy, TLS_FILTERS[direction], NetworkRbac)
        self._http = message(self.policy, TLS_HTTP_FILTERS[direction], HttpRbac)
        self._headers = message(self.policy, f"{TLS_HTTP_FILTERS[direction]}.headers", Composite)

    def chain(self, seen: Seen) -> Chain | None:
        """The one that a connection takes; None when it is carried as it is."""
        found = evaluate(self._matcher, seen)
        assert found is not None and found.typed_config is not None
        name = StringValue.parse(found.typed_config.value).value
        return None if name == CARRIED else self._chains[name]

    def allows(self, seen: Seen, chain: Chain | None) -> bool:
        if chain is not None and not chain.does.http:
            return True
        rbac = self._network if chain is None else self._http
        assert isinstance(rbac, NetworkRbac | HttpRbac)
        if rbac.matcher is None:
            return True
        action = verdict(rbac.matcher, seen)
        assert action is not None
        return action.action == RbacAction.ALLOW

    def headers(self, seen: Seen) -> dict[str, str]:
        assert isinstance(self._headers, Composite)
        headers, _ = changed(self._headers, seen)
        if headers.get("x-forwarded-proto") == ABSENT_FORWARDED_PROTO:
            del headers["x-forwarded-proto"]  # as the route does
        return {name: value for name, value in headers.items() if name[0] != ":" and name != "host"}


def seen(direction: Direction, peer: str, port: int, greeting: Greeting, request: HttpRequest) -> Seen:
    own = "fd00::9" if ":" in peer else "10.0.0.9"
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    pseudo = {":path": request.path, ":method": request.method, ":authority": request.host, "host": request.host}
    headers = {"x-forwarded-proto": ABSENT_FORWARDED_PROTO, **request.headers, **pseudo}
    transport = "tls" if greeting.encrypted else "plain"
    return Seen(
        source,
        destination,
        port,
        headers,
        greeting.server_name,
        {**ends(direction, OWN.identity, PEERS[peer]), "lockgate.transport": transport},
        greeting.encrypted,
    )


@settings(deadline=None, max_examples=300)
@given(
    halves,
    st.sampled_from(Direction),
    st.lists(
        st.tuples(st.sampled_from(sorted(PEERS)), st.sampled_from(PORTS), st.sampled_from(GREETINGS), requests),
        min_size=1,
        max_size=10,
    ),
)
def test_agrees_with_the_verdict_function(
    half: DirectionPolicy, direction: Direction, flows: list[tuple[str, int, Greeting, HttpRequest]]
) -> None:
    node = Node(half, direction)
    assert not any(each and each.lacks for chain in node.policy.chains for each in chain.does[:2])
    for peer, port, greeting, plain in flows:
        covering = [rule for rule in half.rules if rule.covers(PEERS[peer], Protocol.TCP, port)]
        if {proxy_of(rule, Protocol.TCP) for rule in covering if rule.redirects} - {ProxyKind.TLS}:
            continue  # never comes to these listeners
        request = replace(plain, encrypted=greeting.encrypted, server_name=greeting.server_name)
        expected = judge(half, PEERS[peer], Protocol.TCP, port, request)
        arrived = seen(direction, peer, port, greeting, plain)
        chain = node.chain(arrived)
        assert (chain.does if chain is not None else None) == expected.interception
        assert node.allows(arrived, chain) is (expected.verdict is Verdict.ALLOW), (peer, port, request, expected)
        if chain is not None and chain.does.http and expected.verdict is Verdict.ALLOW:
            assert node.headers(arrived) == request.after(expected.actions).headers


def rule(tls: TlsRules, l7: HttpRules | None = None, name: str = "p") -> ResolvedRule:
    return ResolvedRule(origin(name), False, None, (PortSpan(Protocol.TCP, 443, 443),), l7, tls)


def taken(half: DirectionPolicy, greeting: Greeting) -> Interception | None:
    request = HttpRequest("GET", "/")
    chain = Node(half, Direction.EGRESS).chain(seen(Direction.EGRESS, "10.0.0.1", 443, greeting, request))
    return chain.does if chain is not None else None


def test_each_name_has_its_own_secret() -> None:
    half = DirectionPolicy(True, (rule(TlsRules(("a.example",), A)), rule(TlsRules(("b.example",), B, CB))))
    assert taken(half, Greeting(True, "a.example")) == Interception(A, None, False)
    assert taken(half, Greeting(True, "b.example")) == Interception(B, CB, False)
    assert taken(half, Greeting(True, "c.example")) is None
    assert taken(half, Greeting(True)) is None
    assert taken(half, Greeting(False)) is None


def test_endpoints_with_the_same_names_keep_their_own_secrets() -> None:
    other = endpoint("default/other", 401, "10.0.0.8")
    pairs = [
        (OWN, EndpointPolicy(egress=DirectionPolicy(True, (rule(TlsRules(("a.example",), A)),)))),
        (other, EndpointPolicy(egress=DirectionPolicy(True, (rule(TlsRules(("a.example",), B)),)))),
    ]
    policed = frozenset((each.identity, Direction.EGRESS) for each, _ in pairs)
    policy = TlsCompiler().compile(pairs, policed)
    matcher = Matcher.parse(policy.matcher)
    for each, context in ((OWN, A), (other, B)):
        state = ends(Direction.EGRESS, each.identity, 300)
        found = evaluate(matcher, Seen(str(each.ips[0]), "10.0.0.1", 443, server_name="a.example", state=state))
        assert found is not None and found.typed_config is not None
        chain = Chain(Direction.EGRESS, Interception(context, None, False))
        assert StringValue.parse(found.typed_config.value).value == chain.name


def test_what_is_made_to_the_listener_itself_is_closed() -> None:
    matcher = Matcher.parse(TlsCompiler().compile([], frozenset()).matcher)
    for address, name in (("127.0.0.1", OWN_ADDRESS), ("::1", OWN_ADDRESS), ("10.0.0.1", CARRIED)):
        found = evaluate(matcher, Seen("10.0.0.9", address, 15002))
        assert found is not None and found.typed_config is not None
        assert StringValue.parse(found.typed_config.value).value == name


@pytest.mark.parametrize("direction", Direction)
def test_without_a_policy_no_request_passes_where_only_what_is_taken_up_comes(direction: Direction) -> None:
    rbac = message(TlsCompiler().compile([], frozenset()), TLS_HTTP_FILTERS[direction], HttpRbac)
    assert isinstance(rbac, HttpRbac) and rbac.matcher is not None
    action = verdict(rbac.matcher, Seen("10.0.0.9", "10.0.0.1", 443))
    assert action is not None and action.action == RbacAction.DENY


def test_what_went_on_otherwise_than_it_greeted_meets_no_rule_about_tls() -> None:
    half = DirectionPolicy(True, (rule(TlsRules(("a.example",))),))
    policy = TlsCompiler().compile([(OWN, EndpointPolicy(ingress=half))], EVERY)
    for name, expected in ((TLS_FILTERS[Direction.INGRESS], RbacAction.ALLOW), (TAKEN_INGRESS, RbacAction.DENY)):
        rbac = message(policy, name, NetworkRbac)
        assert isinstance(rbac, NetworkRbac) and rbac.matcher is not None
        state = ends(Direction.INGRESS, 400, 300)
        action = verdict(rbac.matcher, Seen("10.0.0.1", "10.0.0.9", 443, server_name="a.example", state=state))
        assert action is not None and action.action == expected


def test_more_header_changes_than_a_filter_holds_are_refused_and_denied() -> None:
    matches = tuple(HeaderMatch(f"x-{number}", "1", MismatchAction.LOG) for number in range(14))
    http = HttpRules(tuple(HttpRule(headers=(match,)) for match in matches))
    half = DirectionPolicy(True, (rule(TlsRules((), A), http),))
    policy = TlsCompiler().compile([(OWN, EndpointPolicy(egress=half))], EVERY)
    assert set(policy.refused) == {origin("p")}
    node = Node(half, Direction.EGRESS)
    arrived = seen(Direction.EGRESS, "10.0.0.1", 443, Greeting(True), HttpRequest("GET", "/"))
    assert not node.allows(arrived, node.chain(arrived))
