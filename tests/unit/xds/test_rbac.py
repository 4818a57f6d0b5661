"""The compiled filters, run by a matcher interpreter, against the verdict function."""

from __future__ import annotations

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
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
    TlsRules,
)
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Verdict, judge
from lockgate.tests.unit.xds.matcher_messages import Seen, verdict
from lockgate.tests.unit.xds.policy_strategies import directions, endpoint, ipcache, origin, requests
from lockgate.xds.rbac import FILTERS, NodeCompiler, NodeResources, compile_node, policed_by
from lockgate.xds.rule_name import NOT_POLICED
from lockgate.xds.snapshot import FILTER_CONFIG

PORTS = (80, 443, 8080)
PEERS = {"10.0.0.1": 300, "10.0.0.2": 301, "10.1.2.3": 302, "10.9.9.9": 9, "fd00::2": 301, "fd01::1": 10}
CACHE = ipcache(
    {
        "0.0.0.0/0": 9,
        "::/0": 10,
        "10.0.0.1/32": 300,
        "10.0.0.2/32": 301,
        "10.1.0.0/16": 302,
        "fd00::2/128": 301,
        "10.0.0.9/32": 400,
        "fd00::9/128": 400,
    }
)
SERVER = endpoint("default/api-server", 400, "10.0.0.9", "fd00::9")
EVERY = frozenset({(SERVER.key, Direction.INGRESS), (SERVER.key, Direction.EGRESS)})
PORT_80 = (PortSpan(Protocol.TCP, 80, 80),)


def decide(node: NodeResources, direction: Direction, seen: Seen) -> tuple[str, str]:
    resource = node.filters[direction]
    assert (resource.type_url, resource.name) == (FILTER_CONFIG, FILTERS[direction])
    extension = TypedExtensionConfig.parse(resource.body)
    assert extension.name == resource.name and extension.typed_config is not None
    rbac = Rbac.parse(extension.typed_config.value)
    if rbac.matcher is None:  # an empty filter, by which everything passes
        return "allow", NOT_POLICED
    action = verdict(rbac.matcher, seen)
    assert action is not None
    return ("allow" if action.action == RbacAction.ALLOW else "deny"), action.name


def seen(direction: Direction, peer: str, port: int, request: HttpRequest) -> Seen:
    own = "fd00::9" if ":" in peer else "10.0.0.9"
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    pseudo = {":path": request.path, ":method": request.method, ":authority": request.host, "host": request.host}
    return Seen(source, destination, port, {**request.headers, **pseudo})


@settings(deadline=None, max_examples=250)
@given(
    directions(PORTS, sorted(set(PEERS.values()))),
    st.sampled_from(Direction),
    st.lists(
        st.tuples(st.sampled_from(sorted(PEERS)), st.sampled_from([*PORTS, 79, 9999]), requests),
        min_size=1,
        max_size=12,
    ),
)
def test_agrees_with_the_verdict_function(
    half: DirectionPolicy, direction: Direction, flows: list[tuple[str, int, HttpRequest]]
) -> None:
    policy = EndpointPolicy(**{direction: half})
    node = compile_node([(SERVER, policy)], CACHE, EVERY)
    for peer, port, request in flows:
        expected = judge(half, PEERS[peer], Protocol.TCP, port, request)
        found, name = decide(node, direction, seen(direction, peer, port, request))
        assert found == expected.verdict, (name, expected.reason)
        if expected.rule is not None and expected.verdict is Verdict.DENY:
            assert name == str(expected.rule.origin)


def rule(
    *http: HttpRule, peers: frozenset[int] | None = None, name: str = "p", tls: TlsRules | None = None
) -> ResolvedRule:
    return ResolvedRule(origin(name), False, peers, PORT_80, HttpRules(http) if http else None, tls)


def node_of(*rules: ResolvedRule, default_deny: bool = True) -> NodeResources:
    policy = EndpointPolicy(ingress=DirectionPolicy(default_deny, rules))
    return compile_node([(SERVER, policy)], CACHE, frozenset({(SERVER.key, Direction.INGRESS)}))


def ask(node: NodeResources, peer: str = "10.0.0.1", path: str = "/") -> tuple[str, str]:
    return decide(node, Direction.INGRESS, seen(Direction.INGRESS, peer, 80, HttpRequest("GET", path, "api")))


def test_names_say_who_decided() -> None:
    deny = ResolvedRule(origin("blocked"), True, frozenset({301}), None)
    node = node_of(rule(HttpRule("/a"), peers=frozenset({300})), deny)
    assert ask(node, path="/a") == ("allow", "default/p:spec.ingress[0].toPorts[0]")
    assert ask(node, path="/b") == ("deny", "endpoint:default/api-server:ingress:no-rule-matched")
    assert ask(node, "10.0.0.2") == ("deny", "default/blocked:spec.ingress[0].toPorts[0]")
    assert ask(node_of(rule(HttpRule("/a")), default_deny=False), path="/b") == (
        "allow",
        "endpoint:default/api-server:ingress:default-allow",
    )


def test_an_address_that_is_not_policed_was_judged_by_the_kernel() -> None:
    node = node_of(rule(HttpRule("/a")))
    request = HttpRequest("GET", "/b", "api")
    elsewhere = Seen("10.0.0.1", "10.0.0.77", 80, {":path": "/b"})
    assert decide(node, Direction.INGRESS, elsewhere) == ("allow", "node:not-policed")
    assert decide(node, Direction.EGRESS, seen(Direction.EGRESS, "10.0.0.1", 80, request))[0] == "allow"


def test_an_address_that_nothing_knows_is_denied() -> None:
    policy = EndpointPolicy(ingress=DirectionPolicy(False, (rule(HttpRule("/a")),)))
    node = compile_node([(SERVER, policy)], {}, policed_by([(SERVER, policy)]))
    assert ask(node, path="/a") == ("deny", "endpoint:default/api-server:ingress:no-rule-matched")


def test_an_endpoint_stays_policed_while_its_last_rule_is_on_its_way_out() -> None:
    plain = ResolvedRule(origin("plain"), False, frozenset({300}), PORT_80)
    node = node_of(plain)
    assert ask(node, path="/any") == ("allow", "default/plain:spec.ingress[0].toPorts[0]")
    assert ask(node, "10.0.0.2") == ("deny", "endpoint:default/api-server:ingress:no-rule-matched")
    nothing = compile_node([(SERVER, EndpointPolicy())], CACHE, frozenset({(SERVER.key, Direction.INGRESS)}))
    assert ask(nothing) == ("allow", "endpoint:default/api-server:ingress:default-allow")


def test_two_endpoints_with_one_address_are_both_shut() -> None:
    other = endpoint("default/twin", 400, "10.0.0.9")
    policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule()),)))
    pairs = [(SERVER, policy), (other, policy)]
    found, name = ask(compile_node(pairs, CACHE, policed_by(pairs)))
    assert (found, name) == ("deny", "address:10.0.0.9:claimed-by:default/api-server:and:default/twin")


def test_a_rule_that_needs_what_is_not_there_allows_nothing_and_is_named() -> None:
    changing = HttpRule(headers=(HeaderMatch("x-a", "1", MismatchAction.ADD),))
    node = node_of(rule(changing, name="adds"), rule(HttpRule("/a")))
    assert list(map(str, node.refused)) == ["default/adds:spec.ingress[0].toPorts[0]"]
    assert "mismatch ADD" in next(iter(node.refused.values()))
    assert ask(node, path="/b")[0] == "deny"
    assert ask(node, path="/a")[0] == "allow"


def test_a_rule_about_tls_matches_no_plain_request() -> None:
    node = node_of(rule(HttpRule("/a"), tls=TlsRules(("api",))))
    assert ask(node, path="/a")[0] == "deny" and not node.refused


def test_policed_by_names_the_pairs_that_need_envoy() -> None:
    l7 = DirectionPolicy(True, (rule(HttpRule("/a")),))
    plain = DirectionPolicy(True, (ResolvedRule(origin("plain"), False, None, None),))
    assert policed_by([(SERVER, EndpointPolicy(l7, plain))]) == {(SERVER.key, Direction.INGRESS)}
    assert policed_by([(SERVER, EndpointPolicy(plain, l7))]) == {(SERVER.key, Direction.EGRESS)}


def test_what_is_remembered_does_not_show() -> None:
    """Change after change, one compiler that remembers gives the bytes of one that does not."""
    compiler = NodeCompiler()
    policies = [
        EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule(path)), rule(HttpRule("/b/.*"), name="q"))))
        for path in ("/a", "/a/.*", "/a")
    ]
    bigger = {**CACHE, **ipcache({"10.0.0.3/32": 301})}
    for policy in policies:
        for cache in (CACHE, bigger, dict(CACHE)):
            for policed in (EVERY, frozenset()):
                pairs = [(SERVER, policy), (endpoint("default/z", 300, "10.0.0.1"), policies[0])]
                remembered = compiler.compile(pairs, cache, policed)
                assert remembered.snapshot() == compile_node(pairs, cache, policed).snapshot()


def test_replicas_and_families_differ_only_where_they_must() -> None:
    node = node_of(rule(HttpRule("/a"), peers=frozenset({301})))
    assert ask(node, "fd00::2", path="/a")[0] == "allow"
    assert ask(node, "fd01::1", path="/a")[0] == "deny"
