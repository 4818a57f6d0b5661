"""The network filters for connections that stay encrypted, run by a matcher interpreter, against the verdict
function."""

from __future__ import annotations

from dataclasses import replace

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.extensions.filters.network.rbac.v3 import Rbac
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    PortSpan,
    Protocol,
    ResolvedRule,
    TlsRules,
)
from lockgate.policies.proxy_kind import ProxyKind, proxy_of
from lockgate.policies.request import TlsRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.unit.xds.matcher_messages import Seen, ends, verdict
from lockgate.tests.unit.xds.policy_strategies import endpoint, origin, rules
from lockgate.xds.compile.rule_name import NOT_POLICED
from lockgate.xds.compile.tls_rbac import TLS_FILTERS, TlsCompiler, tls_policed_by
from lockgate.xds.snapshot import FILTER_CONFIG, Resource

PORTS = (80, 443, 8443)
PEERS = {"10.0.0.1": 300, "10.0.0.2": 301, "10.9.9.9": 9, "fd00::2": 301, "fd01::1": 10}
OWN = endpoint("default/own", 400, "10.0.0.9", "fd00::9")
EVERY = frozenset((OWN.identity, direction) for direction in Direction)
NAMES = ("", "a.example", "x.a.example", "b.example")
PATTERNS = ("a.example", "b.example", "*.a.example", "**.example", "*")

about_tls = st.builds(
    lambda rule, names: replace(rule, deny=False, l7=None, tls=TlsRules(tuple(names))),
    rules(PORTS, sorted(set(PEERS.values()))),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2),
)
halves = st.builds(
    DirectionPolicy,
    st.sampled_from([True, True, True, False]),
    st.lists(st.one_of(about_tls, about_tls, rules(PORTS, sorted(set(PEERS.values())))), max_size=4).map(tuple),
)


def decide(resource: Resource, seen: Seen) -> tuple[str, str]:
    extension = TypedExtensionConfig.parse(resource.body)
    assert (resource.type_url, extension.name) == (FILTER_CONFIG, resource.name)
    assert extension.typed_config is not None
    matcher = Rbac.parse(extension.typed_config.value).matcher
    if matcher is None:
        return "allow", NOT_POLICED
    action = verdict(matcher, seen)
    assert action is not None
    return ("allow" if action.action == RbacAction.ALLOW else "deny"), action.name


def filters(half: DirectionPolicy, direction: Direction) -> dict[str, Resource]:
    compiled = TlsCompiler().compile([(OWN, EndpointPolicy(**{direction: half}))], EVERY)
    return {resource.name: resource for resource in compiled.filters}


def seen(direction: Direction, peer: str, port: int, name: str) -> Seen:
    own = "fd00::9" if ":" in peer else "10.0.0.9"
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    return Seen(source, destination, port, server_name=name, state=ends(direction, OWN.identity, PEERS[peer]))


@settings(deadline=None, max_examples=200)
@given(
    halves,
    st.sampled_from(Direction),
    st.lists(st.tuples(st.sampled_from(sorted(PEERS)), st.sampled_from([*PORTS, 9999]), st.sampled_from(NAMES))),
)
def test_agrees_with_the_verdict_function(
    half: DirectionPolicy, direction: Direction, flows: list[tuple[str, int, str]]
) -> None:
    compiled = filters(half, direction)
    for peer, port, name in flows:
        covering = [rule for rule in half.rules if rule.covers(PEERS[peer], Protocol.TCP, port)]
        if {proxy_of(rule, Protocol.TCP) for rule in covering if rule.redirects} - {ProxyKind.TLS}:
            continue  # never comes to this listener
        expected = judge(half, PEERS[peer], Protocol.TCP, port, TlsRequest(name))
        found, _ = decide(compiled[TLS_FILTERS[direction]], seen(direction, peer, port, name))
        assert found == ("allow" if expected.verdict is Verdict.ALLOW else "deny"), (peer, port, name, expected)


def rule(*names: str, peers: frozenset[int] | None = None) -> ResolvedRule:
    return ResolvedRule(origin("p"), False, peers, (PortSpan(Protocol.TCP, 443, 443),), None, TlsRules(names))


def test_a_decision_has_the_name_of_its_rule() -> None:
    compiled = filters(DirectionPolicy(True, (rule("a.example"),)), Direction.EGRESS)
    egress = compiled["lockgate.tls.egress"]
    assert decide(egress, seen(Direction.EGRESS, "10.0.0.1", 443, "a.example")) == ("allow", str(origin("p")))
    denied = decide(egress, seen(Direction.EGRESS, "10.0.0.1", 443, "b.example"))
    assert denied == ("deny", "identity:400:egress:no-rule-matched")


def test_who_has_no_rule_about_tls_is_judged_by_the_kernel_alone() -> None:
    half = DirectionPolicy(True, (rule("a.example"),))
    pairs = [(OWN, EndpointPolicy(egress=half)), (endpoint("default/other", 401, "10.0.0.8"), EndpointPolicy())]
    assert tls_policed_by(pairs) == {(OWN.identity, Direction.EGRESS)}
    assert half.about_tls and not EndpointPolicy().egress.about_tls
    egress, ingress = TlsCompiler().compile(pairs, tls_policed_by(pairs)).filters[:2]
    assert decide(egress, Seen("10.0.0.8", "10.0.0.1", 443, state=ends(Direction.EGRESS, 401, 300))) == (
        "allow",
        NOT_POLICED,
    )
    assert decide(ingress, Seen("10.0.0.1", "10.0.0.9", 443, state=ends(Direction.INGRESS, 400, 300))) == (
        "allow",
        NOT_POLICED,
    )


def test_who_is_not_known_here_is_denied() -> None:
    egress = filters(DirectionPolicy(True, (rule("a.example"),)), Direction.EGRESS)["lockgate.tls.egress"]
    at = seen(Direction.EGRESS, "10.0.0.1", 443, "a.example")
    denied = ("deny", "node:unknown-identity")
    assert decide(egress, replace(at, state=ends(Direction.EGRESS, 402, 300))) == denied
    for nobody in ("", "nobody", "16:400:", "400:in", "16:400:in ", "0:400:in", "16:400:on"):
        assert decide(egress, replace(at, state={"lockgate.source": nobody})) == denied
    assert decide(egress, replace(at, state={})) == denied


def test_who_is_at_another_node_was_judged_there() -> None:
    egress = filters(DirectionPolicy(True, (rule("a.example"),)), Direction.EGRESS)["lockgate.tls.egress"]
    at = seen(Direction.EGRESS, "10.0.0.1", 443, "b.example")
    assert decide(egress, at)[0] == "deny"
    for own in (OWN.identity, 402):
        elsewhere = replace(at, state=ends(Direction.EGRESS, own, 300, local=False))
        assert decide(egress, elsewhere) == ("allow", NOT_POLICED)


def test_a_compiler_that_goes_on_tells_what_a_new_one_would() -> None:
    compiler = TlsCompiler()
    first = [(OWN, EndpointPolicy(egress=DirectionPolicy(True, (rule("a.example", peers=frozenset({300})),))))]
    second = [(OWN, EndpointPolicy(egress=DirectionPolicy(True, (rule("b.example", peers=frozenset({300})),))))]
    for pairs in (first, second, second, first):
        assert compiler.compile(pairs, EVERY) == TlsCompiler().compile(pairs, EVERY)
