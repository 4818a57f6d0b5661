"""The compiled filters, run by a matcher interpreter, against the verdict function."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from envoy_data_plane.envoy.config.core.v3 import TypedExtensionConfig
from envoy_data_plane.envoy.config.rbac.v3 import RbacAction
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import Composite, ExecuteFilterAction
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.envoy.config import end
from lockgate.envoy.config.end import identity_of
from lockgate.envoy.config.http_listener import HttpListener
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
from lockgate.tests.unit.xds.matcher_messages import Seen, changed, ends, verdict
from lockgate.tests.unit.xds.policy_strategies import changing_directions, directions, endpoint, origin, requests
from lockgate.xds.compile.end import OWN_END
from lockgate.xds.compile.header_condition import ABSENT_FORWARDED_PROTO
from lockgate.xds.compile.rbac import NodeCompiler, NodeResources, compile_node, policed_by
from lockgate.xds.compile.rule_name import NOT_POLICED
from lockgate.xds.compile.shard import SHARDS, shard_name, shard_of
from lockgate.xds.snapshot import FILTER_CONFIG, Resource

PORTS = (80, 443, 8080)
PEERS = {"10.0.0.1": 300, "10.0.0.2": 301, "10.1.2.3": 302, "10.9.9.9": 9, "fd00::2": 301, "fd01::1": 10}
SERVER = endpoint("default/api-server", 400, "10.0.0.9", "fd00::9")
EVERY = frozenset({(SERVER.identity, Direction.INGRESS), (SERVER.identity, Direction.EGRESS)})
RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
COMPOSITE = "type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite"
PORT_80 = (PortSpan(Protocol.TCP, 80, 80),)


@lru_cache(maxsize=4)
def parsed(resource: Resource) -> tuple[Rbac, Composite]:
    """The verdict's filter and that of header changes, which is empty where there are none."""
    extension = TypedExtensionConfig.parse(resource.body)
    assert extension.name == resource.name and extension.typed_config is not None
    packed = extension.typed_config
    if packed.type_url == RBAC:
        return Rbac.parse(packed.value), Composite()
    assert packed.type_url == COMPOSITE
    chain = Composite.parse(packed.value).matcher
    assert chain is not None and chain.on_no_match is not None and chain.on_no_match.action is not None
    assert chain.on_no_match.action.typed_config is not None
    run = ExecuteFilterAction.parse(chain.on_no_match.action.typed_config.value)
    assert run.filter_chain is not None
    judging, changing = (each.typed_config for each in run.filter_chain.typed_config)
    assert judging is not None and changing is not None
    assert (judging.type_url, changing.type_url) == (RBAC, COMPOSITE)
    return Rbac.parse(judging.value), Composite.parse(changing.value)


def shard(node: NodeResources, direction: Direction, seen: Seen) -> Resource:
    """What Envoy runs by what the identity filter left. It runs nothing for who is unknown; a shard denies it too."""
    own = seen.state.get(OWN_END[direction], "0:0:in")
    resource = node.of(direction, int(identity_of(own)))
    assert (resource.type_url, resource.name) == (FILTER_CONFIG, f"{shard_name(direction, 0)[:-1]}{own.split(':')[0]}")
    return resource


def decide(node: NodeResources, direction: Direction, seen: Seen) -> tuple[str, str]:
    resource = shard(node, direction, seen)
    rbac, _ = parsed(resource)
    if rbac.matcher is None:  # an empty filter, by which everything passes
        return "allow", NOT_POLICED
    action = verdict(rbac.matcher, seen)
    assert action is not None
    return ("allow" if action.action == RbacAction.ALLOW else "deny"), action.name


def left(node: NodeResources, direction: Direction, seen: Seen) -> tuple[dict[str, str], list[str]]:
    """The headers that go on, and what is logged. Without X-Forwarded-Proto Envoy's bootstrap writes a mark there."""
    resource = shard(node, direction, seen)
    marked = replace(seen, headers={"x-forwarded-proto": ABSENT_FORWARDED_PROTO, **seen.headers})
    headers, logged = changed(parsed(resource)[1], marked)
    if headers.get("x-forwarded-proto") == ABSENT_FORWARDED_PROTO:
        del headers["x-forwarded-proto"]
    return {name: value for name, value in headers.items() if name[0] != ":" and name != "host"}, logged


def seen(direction: Direction, peer: str, port: int, request: HttpRequest) -> Seen:
    own = "fd00::9" if ":" in peer else "10.0.0.9"
    source, destination = (peer, own) if direction is Direction.INGRESS else (own, peer)
    pseudo = {":path": request.path, ":method": request.method, ":authority": request.host, "host": request.host}
    state = ends(direction, SERVER.identity, PEERS[peer])
    return Seen(source, destination, port, {**request.headers, **pseudo}, state=state)


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
    agrees(half, direction, flows)


@settings(deadline=None, max_examples=150)
@given(
    changing_directions(80, sorted(set(PEERS.values()))),
    st.sampled_from(Direction),
    st.lists(st.tuples(st.sampled_from(sorted(PEERS)), st.just(80), requests), min_size=6, max_size=12),
)
def test_headers_are_changed_as_the_verdict_function_says(
    half: DirectionPolicy, direction: Direction, flows: list[tuple[str, int, HttpRequest]]
) -> None:
    agrees(half, direction, flows)


def agrees(half: DirectionPolicy, direction: Direction, flows: list[tuple[str, int, HttpRequest]]) -> None:
    policy = EndpointPolicy(**{direction: half})
    node = compile_node([(SERVER, policy)], EVERY)
    for peer, port, request in flows:
        expected = judge(half, PEERS[peer], Protocol.TCP, port, request)
        arrived = seen(direction, peer, port, request)
        found, name = decide(node, direction, arrived)
        assert found == expected.verdict, (name, expected.reason)
        if expected.verdict is Verdict.ALLOW:
            headers, logged = left(node, direction, arrived)
            assert headers == request.after(expected.actions).headers
            notes = {action.name for action in expected.actions if action.action is MismatchAction.LOG}
            assert {note.split(" ")[1] for note in logged} == notes
        if expected.rule is not None and expected.verdict is Verdict.DENY:
            assert name == str(expected.rule.origin)


def rule(
    *http: HttpRule, peers: frozenset[int] | None = None, name: str = "p", tls: TlsRules | None = None
) -> ResolvedRule:
    return ResolvedRule(origin(name), False, peers, PORT_80, HttpRules(http) if http else None, tls)


def node_of(*rules: ResolvedRule, default_deny: bool = True) -> NodeResources:
    policy = EndpointPolicy(ingress=DirectionPolicy(default_deny, rules))
    return compile_node([(SERVER, policy)], frozenset({(SERVER.identity, Direction.INGRESS)}))


def ask(node: NodeResources, peer: str = "10.0.0.1", path: str = "/") -> tuple[str, str]:
    return decide(node, Direction.INGRESS, seen(Direction.INGRESS, peer, 80, HttpRequest("GET", path, "api")))


def test_names_say_who_decided() -> None:
    deny = ResolvedRule(origin("blocked"), True, frozenset({301}), None)
    node = node_of(rule(HttpRule("/a"), peers=frozenset({300})), deny)
    assert ask(node, path="/a") == ("allow", "default/p:spec.ingress[0].toPorts[0]")
    assert ask(node, path="/b") == ("deny", "no-rule-matched:default/p:spec.ingress[0].toPorts[0]")
    assert ask(node, "10.1.2.3") == ("deny", "identity:400:ingress:no-rule-matched")
    assert ask(node, "10.0.0.2") == ("deny", "default/blocked:spec.ingress[0].toPorts[0]")
    assert ask(node_of(rule(HttpRule("/a")), default_deny=False), path="/b") == (
        "allow",
        "identity:400:ingress:default-allow",
    )


def test_an_end_that_is_not_policed_was_judged_by_the_kernel() -> None:
    other = endpoint("default/other", 401, "10.0.0.10")
    policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule("/a")),)))
    node = compile_node([(SERVER, policy), (other, EndpointPolicy())], policed_by([(SERVER, policy)]))
    at = Seen("10.0.0.1", "10.0.0.77", 80, {":path": "/b"})
    passed = ("allow", "node:not-policed")
    assert decide(node, Direction.INGRESS, replace(at, state=ends(Direction.INGRESS, 401, 300))) == passed
    elsewhere = ends(Direction.INGRESS, SERVER.identity, 300, local=False)
    assert decide(node, Direction.INGRESS, replace(at, state=elsewhere)) == passed
    assert (
        decide(node, Direction.EGRESS, seen(Direction.EGRESS, "10.0.0.1", 80, HttpRequest("GET", "/b", "api")))[0]
        == "allow"
    )


def test_who_is_not_known_here_is_denied() -> None:
    node = node_of(rule(HttpRule("/a")))
    at = Seen("10.0.0.1", "10.0.0.9", 80, {":path": "/a", ":method": "GET"})
    denied = ("deny", "node:unknown-identity")
    assert decide(node, Direction.INGRESS, replace(at, state=ends(Direction.INGRESS, 402, 300))) == denied
    assert decide(node, Direction.INGRESS, at) == denied  # without the identity filter nobody is anybody


def test_a_peer_that_no_rule_names_is_anyone() -> None:
    node = node_of(rule(HttpRule("/a"), peers=frozenset({300})), rule(HttpRule("/open"), name="open"))
    for peer in (300, 301, 99_999):
        at = Seen(
            "10.0.0.1", "10.0.0.9", 80, {":path": "/open", ":method": "GET"}, state=ends(Direction.INGRESS, 400, peer)
        )
        assert decide(node, Direction.INGRESS, at)[0] == "allow"
        at = replace(at, headers={":path": "/a", ":method": "GET"})
        assert decide(node, Direction.INGRESS, at)[0] == ("allow" if peer == 300 else "deny")


def test_more_replicas_with_a_known_identity_change_nothing() -> None:
    policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule("/a"), peers=frozenset({300})),)))
    few = [(SERVER, policy)]
    many = few + [(endpoint(f"default/api-{n}", 400, f"10.0.{n // 250}.{n % 250}"), policy) for n in range(1000)]
    assert compile_node(many, policed_by(many)).snapshot() == compile_node(few, policed_by(few)).snapshot()


def test_replicas_that_number_a_named_port_differently_are_told_apart_by_address() -> None:
    twin = endpoint("default/twin", 400, "10.0.0.10")
    here = DirectionPolicy(True, (rule(HttpRule("/a")),))
    there = DirectionPolicy(True, (replace(rule(HttpRule("/a")), ports=(PortSpan(Protocol.TCP, 8080, 8080),)),))
    pairs = [(SERVER, EndpointPolicy(ingress=here)), (twin, EndpointPolicy(ingress=there))]
    node = compile_node(pairs, policed_by(pairs))
    state = ends(Direction.INGRESS, 400, 300)
    for address, port, expected in (
        ("10.0.0.9", 80, "allow"),
        ("10.0.0.9", 8080, "deny"),
        ("10.0.0.10", 80, "deny"),
        ("10.0.0.10", 8080, "allow"),
        ("fd00::9", 80, "allow"),
        ("10.0.0.11", 80, "deny"),
    ):
        at = Seen("10.0.0.1", address, port, {":path": "/a", ":method": "GET"}, state=state)
        assert decide(node, Direction.INGRESS, at)[0] == expected, (address, port)


def test_an_endpoint_stays_policed_while_its_last_rule_is_on_its_way_out() -> None:
    plain = ResolvedRule(origin("plain"), False, frozenset({300}), PORT_80)
    node = node_of(plain)
    assert ask(node, path="/any") == ("allow", "default/plain:spec.ingress[0].toPorts[0]")
    assert ask(node, "10.0.0.2") == ("deny", "identity:400:ingress:no-rule-matched")
    nothing = compile_node([(SERVER, EndpointPolicy())], frozenset({(SERVER.identity, Direction.INGRESS)}))
    assert ask(nothing) == ("allow", "identity:400:ingress:default-allow")


def acting(path: str, name: str, value: str | None, action: MismatchAction) -> HttpRule:
    return HttpRule(path, headers=(HeaderMatch(name, value, action),))


def sent(node: NodeResources, path: str, **headers: str) -> tuple[dict[str, str], list[str]]:
    request = HttpRequest("GET", path, "api", {name.replace("_", "-"): value for name, value in headers.items()})
    return left(node, Direction.INGRESS, seen(Direction.INGRESS, "10.0.0.1", 80, request))


def test_rules_that_change_headers_allow_like_any_other() -> None:
    node = node_of(rule(acting("/a", "x-role", "user", MismatchAction.REPLACE)), rule(HttpRule("/b")))
    assert ask(node, path="/a")[0] == ask(node, path="/b")[0] == "allow"
    assert sent(node, "/a", x_role="admin") == ({"x-role": "user"}, [])
    assert sent(node, "/b", x_role="admin") == ({"x-role": "admin"}, [])
    assert ask(node, path="/c")[0] == "deny"


def test_what_is_logged_names_rule_and_header() -> None:
    node = node_of(rule(acting("/a", "x-key", "1", MismatchAction.LOG), acting("/.*", "x-b", None, MismatchAction.LOG)))
    assert sent(node, "/a")[1] == [f"{origin('p')} x-key", f"{origin('p')} x-b"]
    assert sent(node, "/a", x_key="1")[1] == [f"{origin('p')} x-b"]


def test_where_nothing_changes_headers_there_is_no_filter_for_it() -> None:
    node = node_of(rule(HttpRule("/a", headers=(HeaderMatch("x-a", "1"),))))
    assert all(COMPOSITE.encode() not in each.body for each in node.shards[Direction.INGRESS])


def test_many_paths_with_one_change_are_one_decision() -> None:
    """Regexes that no map can hold, but what they lead to is the same."""
    many = (acting(f"/a/[0-9]+/{number}/.+", "x-role", "user", MismatchAction.REPLACE) for number in range(2000))
    node = node_of(rule(*many))
    assert not node.refused and len(node.of(Direction.INGRESS, SERVER.identity).body) < 200_000
    assert sent(node, "/a/1/1999/x") == ({"x-role": "user"}, [])
    assert sent(node, "/a/1/2000/x") == ({}, [])


def test_exact_paths_and_prefixes_are_told_apart_by_maps() -> None:
    rules = [acting(f"/a/{number}", "x-n", str(number), MismatchAction.REPLACE) for number in range(500)]
    rules += [acting(f"/p{number}/.*", "x-p", str(number), MismatchAction.REPLACE) for number in range(500)]
    node = node_of(rule(*rules), rule(acting("/.*", "x-all", "1", MismatchAction.ADD)))
    assert not node.refused
    assert sent(node, "/a/77")[0] == {"x-n": "77", "x-all": "1"}
    assert sent(node, "/p99/x")[0] == {"x-p": "99", "x-all": "1"}
    assert sent(node, "/p999/x", x_all="2")[0] == {"x-all": "2,1"}


def test_more_changes_than_can_be_told_apart_deny_and_say_so() -> None:
    many = [acting(f"/.*{number}.*", f"x-{number}", "1", MismatchAction.REPLACE) for number in range(20)]
    node = node_of(rule(*many, name="many"), rule(HttpRule("/a")))
    assert list(map(str, node.refused)) == ["default/many:spec.ingress[0].toPorts[0]"]
    assert "more header changes" in next(iter(node.refused.values()))
    assert ask(node, path="/a") == ("deny", "default/many:spec.ingress[0].toPorts[0]")
    fewer = node_of(rule(*many[:9]))
    assert not fewer.refused and sent(fewer, "/0/8/")[0] == {"x-0": "1", "x-8": "1"}


def test_a_rule_about_tls_matches_no_plain_request() -> None:
    node = node_of(rule(HttpRule("/a"), tls=TlsRules(("api",))))
    assert ask(node, path="/a")[0] == "deny" and not node.refused


def test_policed_by_names_the_pairs_that_need_envoy() -> None:
    l7 = DirectionPolicy(True, (rule(HttpRule("/a")),))
    plain = DirectionPolicy(True, (ResolvedRule(origin("plain"), False, None, None),))
    assert policed_by([(SERVER, EndpointPolicy(l7, plain))]) == {(SERVER.identity, Direction.INGRESS)}
    assert policed_by([(SERVER, EndpointPolicy(plain, l7))]) == {(SERVER.identity, Direction.EGRESS)}


def test_what_is_remembered_does_not_show() -> None:
    """Change after change, one compiler that remembers gives the bytes of one that does not."""
    compiler = NodeCompiler()
    policies = [
        EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule(path)), rule(HttpRule("/b/.*"), name="q"))))
        for path in ("/a", "/a/.*", "/a")
    ]
    for policy in policies:
        for policed in (EVERY, frozenset()):
            pairs = [(SERVER, policy), (endpoint("default/z", 300, "10.0.0.1"), policies[0])]
            remembered = compiler.compile(pairs, policed)
            assert remembered.snapshot() == compile_node(pairs, policed).snapshot()


def test_replicas_and_families_differ_only_where_they_must() -> None:
    node = node_of(rule(HttpRule("/a"), peers=frozenset({301})))
    assert ask(node, "fd00::2", path="/a")[0] == "allow"
    assert ask(node, "fd01::1", path="/a")[0] == "deny"


def test_a_policy_is_in_one_shard_and_a_change_touches_no_other() -> None:
    compiler = NodeCompiler()
    others = [endpoint(f"default/e{n}", 1000 + n, f"10.0.1.{n}") for n in range(2 * SHARDS)]
    same = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule("/same")),)))
    nodes = []
    for path in ("/a", "/b"):
        own = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule(path)),)))
        pairs = [(SERVER, own), *((each, same) for each in others)]
        nodes.append(compiler.compile(pairs, policed_by(pairs)))
    before, after = (node.snapshot().of_type(FILTER_CONFIG) for node in nodes)
    assert len(before) == 2 * SHARDS
    changed = {name for name, each in after.items() if before[name] is not each}
    assert changed == {shard_name(Direction.INGRESS, shard_of(SERVER.identity))}, "and nothing else is built again"
    assert [ask(node, path="/a")[0] for node in nodes] == ["allow", "deny"]


def test_who_comes_and_goes_changes_one_shard() -> None:
    compiler = NodeCompiler()
    policy = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule("/a")),)))
    pairs = [(SERVER, policy)]
    before = compiler.compile(pairs, policed_by(pairs))
    pairs.append((endpoint("default/new", 777, "10.0.2.1"), EndpointPolicy()))
    after = compiler.compile(pairs, policed_by(pairs))
    names = {each.name for each in after.shards[Direction.INGRESS]} - {
        each.name for each in before.shards[Direction.INGRESS] if each in after.shards[Direction.INGRESS]
    }
    assert names == {shard_name(Direction.INGRESS, shard_of(777))}
    assert before.shards[Direction.EGRESS] == after.shards[Direction.EGRESS], "nobody is policed there"


def test_a_shard_of_nobody_is_small_and_denies() -> None:
    node = node_of(rule(HttpRule("/a")))
    empty = node.of(Direction.INGRESS, SERVER.identity + 1)
    assert len(empty.body) < 900
    matcher = parsed(empty)[0].matcher
    assert matcher is not None
    for state, said in (
        (ends(Direction.INGRESS, 401, 300), (RbacAction.DENY, "node:unknown-identity")),
        (ends(Direction.INGRESS, 401, 300, local=False), (RbacAction.ALLOW, NOT_POLICED)),
        ({}, (RbacAction.DENY, "node:unknown-identity")),
    ):
        action = verdict(matcher, Seen("", "", 80, state=state))
        assert action is not None and (action.action, action.name) == said


def test_envoy_and_the_compiler_divide_alike() -> None:
    settings = HttpListener()
    assert (SHARDS, shard_name(Direction.EGRESS, 5), shard_name(Direction.INGRESS, 6)) == (
        end.SHARDS,
        f"{settings.egress_slot}.5",
        f"{settings.ingress_slot}.6",
    )
