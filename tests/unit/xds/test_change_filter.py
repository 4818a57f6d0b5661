"""Between two policies: at every step a request gets at least the changes of the policy that allows it."""

from __future__ import annotations

from dataclasses import replace

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
    Protocol,
    ResolvedRule,
)
from lockgate.policies.header_action import HeaderAction
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import judge
from lockgate.tests.unit.xds.policy_strategies import changing_directions, endpoint, requests
from lockgate.tests.unit.xds.test_rbac import EVERY, PEERS, SERVER, acting, ask, left, rule, seen, sent
from lockgate.xds.rbac import NodeCompiler, NodeResources
from lockgate.xds.snapshot import FILTER_CONFIG, Snapshot


def actions(half: DirectionPolicy, peer: int, request: HttpRequest) -> tuple[HeaderAction, ...]:
    """What the request rules do, whatever else the policy says of the request."""
    rules = tuple(each for each in half.rules if isinstance(each.l7, HttpRules) and each.tls is None)
    return judge(replace(half, rules=rules), peer, Protocol.TCP, 80, request).actions


@settings(deadline=None, max_examples=120)
@given(
    changing_directions(80, sorted(set(PEERS.values()))),
    changing_directions(80, sorted(set(PEERS.values()))),
    st.sampled_from(Direction),
    st.lists(st.tuples(st.sampled_from(sorted(PEERS)), requests), min_size=4, max_size=8),
)
def test_the_bridge_does_the_changes_of_both(
    before: DirectionPolicy,
    after: DirectionPolicy,
    direction: Direction,
    flows: list[tuple[str, HttpRequest]],
) -> None:
    compiler = NodeCompiler()
    halves = (before, after)
    old, new = (compiler.compile([(SERVER, EndpointPolicy(**{direction: half}))], EVERY) for half in halves)
    steps = compiler.steps(old, new)
    assert steps[-1] == new.snapshot()
    if old.changes == new.changes:
        assert len(steps) == 1
        return
    assert len(steps) == 3
    bridge = shown(new, steps[0])
    assert (filters(steps[0]), filters(steps[1])) == (filters(old.snapshot()), filters(new.snapshot()))
    assert shown(new, steps[1]).changes == bridge.changes
    for peer, request in flows:
        done = [each for half in halves for each in actions(half, PEERS[peer], request)]
        headers, _ = left(bridge, direction, seen(direction, peer, 80, request))
        assert headers == request.after(dict.fromkeys(done)).headers


def shown(node: NodeResources, step: Snapshot) -> NodeResources:
    """The step's filters of header changes."""
    found = step.of_type(FILTER_CONFIG)
    return replace(node, changes={direction: found[each.name] for direction, each in node.changes.items()})


def filters(step: Snapshot) -> dict[str, object]:
    return {name: each for name, each in step.of_type(FILTER_CONFIG).items() if not name.endswith(".headers")}


def replacing(path: str, role: str) -> ResolvedRule:
    return rule(acting(path, "x-role", role, MismatchAction.REPLACE))


def compiled(compiler: NodeCompiler, *rules: ResolvedRule) -> NodeResources:
    pair = (SERVER, EndpointPolicy(ingress=DirectionPolicy(True, rules)))
    return compiler.compile([pair], frozenset({(SERVER.identity, Direction.INGRESS)}))


def test_an_old_rule_keeps_its_change_until_it_allows_nothing_any_more() -> None:
    compiler = NodeCompiler()
    old, new = compiled(compiler, replacing("/a", "a")), compiled(compiler, replacing("/b", "b"))
    bridge = shown(new, compiler.steps(old, new)[0])
    assert ask(old, path="/a")[0] == ask(new, path="/b")[0] == "allow"
    assert sent(bridge, "/a", x_role="forged")[0] == {"x-role": "a"}
    assert sent(bridge, "/b", x_role="forged")[0] == {"x-role": "b"}
    assert len(compiler.steps(None, new)) == len(compiler.steps(new, new)) == 1


def test_changes_of_both_that_are_too_many_deny() -> None:
    def many(first: int) -> ResolvedRule:
        return rule(*(acting(f"/.*{n}.*", f"x-{n}", "1", MismatchAction.REPLACE) for n in range(first, first + 9)))

    compiler = NodeCompiler()
    old, new = compiled(compiler, many(0)), compiled(compiler, many(9))
    assert not old.refused and not new.refused
    (body,) = (
        each.body
        for name, each in compiler.steps(old, new)[0].of_type(FILTER_CONFIG).items()
        if "ingress.headers" in name
    )
    assert b"lockgate:header-changes-of-two-policies" in body


def test_a_rule_that_changes_nothing_makes_no_steps() -> None:
    compiler = NodeCompiler()
    plain = rule(HttpRule("/a", headers=(HeaderMatch("x-a", "1"),)))
    old, new = compiled(compiler, replacing("/b", "b")), compiled(compiler, replacing("/b", "b"), plain)
    assert len(compiler.steps(old, new)) == 1


def test_replicas_that_come_and_go_between_two_policies_get_the_changes_of_both() -> None:
    """The policies of before and after are those of an identity, whichever of its endpoints there are."""
    compiler, twin = NodeCompiler(), endpoint("default/twin", SERVER.identity, "10.0.0.10")
    before, after = (
        EndpointPolicy(ingress=DirectionPolicy(True, (replacing("/a", role),))) for role in ("before", "after")
    )
    policed = frozenset({(SERVER.identity, Direction.INGRESS)})
    old, new = compiler.compile([(SERVER, before)], policed), compiler.compile([(twin, after)], policed)
    bridge = shown(new, compiler.steps(old, new)[0])
    assert sent(bridge, "/a", x_role="forged")[0] == {"x-role": "after"}
    plain = EndpointPolicy(ingress=DirectionPolicy(True, (rule(HttpRule("/a")),)))
    gone = compiler.compile([(twin, plain)], policed)
    assert sent(shown(gone, compiler.steps(old, gone)[0]), "/a", x_role="forged")[0] == {"x-role": "before"}
