"""Every example policy on a live node: what its tests expect is what happens on the wire."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lockgate.agent.policy_tests import LoadedTest, load_test
from lockgate.policies import Flow, Verdict, World, explain
from lockgate.store import read_policy_tests
from lockgate.tests.e2e.example_attempt import Attempt, Outcome
from lockgate.tests.e2e.example_client import attempt
from lockgate.tests.e2e.example_node import GLANCE, PATIENCE, ExampleNode, example_node
from lockgate.tests.e2e.example_servers import Servers

# Identities that only a second node, or a cluster, has: flows of theirs are judged, not tried.
ELSEWHERE = {"reserved:remote-node", "reserved:health", "reserved:kube-apiserver", "reserved:ingress"}

EXAMPLES = Path(__file__).parents[2] / "policies" / "examples"
TESTS = {Path(document.source).name.removesuffix(".test.yaml"): document for document in read_policy_tests(EXAMPLES)}
LOADED = {name: load_test(document) for name, document in TESTS.items()}


@pytest.fixture(name="node", scope="module")
def node_for_all_examples() -> Iterator[ExampleNode]:
    worlds = [loaded.world for loaded in LOADED.values()]
    with example_node("examples", max(len(world.endpoints) for world in worlds if world is not None)) as node:
        yield node


@pytest.mark.parametrize("name", sorted(LOADED))
async def test_an_example_is_enforced_as_its_tests_say(node: ExampleNode, name: str) -> None:
    loaded = LOADED[name]
    world = loaded.world
    assert world is not None, loaded.problems
    places = await asyncio.to_thread(node.enforce, policy_files(loaded), loaded)
    attempts = node.attempts(loaded.test.cases, places, world)
    for case in (case for case in loaded.test.cases if not any(each.case is case for each in attempts)):
        ends = {case.flow.source, case.flow.destination}
        assert ends & ELSEWHERE, case.name
        print(f"{case.name}: explained only, nobody on one node is {ends & ELSEWHERE}")
    expected = {each: on_the_wire(world, each.case.flow) for each in attempts}
    # What cannot be tried is too little to be all that shows one of the two.
    assert {"dropped", "denied", "closed"} & set(expected.values())
    assert {"answered", "connected"} & set(expected.values())
    servers = Servers(node.folder, world)
    await servers.open(attempts)
    try:
        outcomes = await asyncio.gather(*(try_it(each, expected[each], servers) for each in attempts))
    finally:
        await servers.close()
    wrong = {
        str(each): f"{outcome.kind} {outcome.detail}, not {expected[each]}"
        for each, outcome in zip(attempts, outcomes, strict=True)
        if outcome.kind != expected[each]
    }
    assert not wrong


def policy_files(loaded: LoadedTest) -> list[Path]:
    assert loaded.world is not None
    return sorted({Path(policy.source) for policy in loaded.world.policies})


def on_the_wire(world: World, flow: Flow) -> str:
    """What a client sees of a verdict: the kernel drops, Envoy denies requests of connections that it got, or closes a
    connection when it reads no requests in it."""
    explanation = explain(world, flow)
    if explanation.verdict is Verdict.ALLOW:
        return "answered"
    if explanation.verdict is Verdict.REDIRECT:
        return "connected"
    sides = [side for side in (explanation.egress, explanation.ingress) if side is not None]
    if any(side.verdict is Verdict.DENY and not side.redirected for side in sides):
        return "dropped"
    reading = [side for side in sides if side.interception is not None and side.interception.http]
    if any(side.verdict is Verdict.DENY for side in reading):
        return "denied"
    connection = explain(world, replace(flow, request=None))
    covering = [
        item.rule
        for side in (connection.egress, connection.ingress)
        if side
        for item in side.considered
        if item.matched
    ]
    return "closed" if any(rule.tls is not None for rule in covering) else "denied"


async def try_it(each: Attempt, expected: str, servers: Servers) -> Outcome:
    return await attempt(each, servers, GLANCE if expected == "dropped" else PATIENCE, expected == "connected")
