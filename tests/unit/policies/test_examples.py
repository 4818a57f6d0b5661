"""The examples are valid, do what they say, and their tests would notice if they did not."""

from __future__ import annotations

from pathlib import Path

import pytest
from lockgate.agent.policy_tests import load_test, run_test
from lockgate.policies import Verdict, World, explain, lint
from lockgate.policies.policy_test import run_case
from lockgate.store import read_documents, read_policy_tests

EXAMPLES = Path(__file__).parents[3] / "policies" / "examples"
NAMES = sorted(path.name.removesuffix(".test.yaml") for path in EXAMPLES.glob("*.test.yaml"))
TESTS = {Path(document.source).name.removesuffix(".test.yaml"): document for document in read_policy_tests(EXAMPLES)}


def world_of(name: str) -> World:
    world = load_test(TESTS[name]).world
    assert world is not None
    return world


def test_each_example_has_a_test_and_the_other_way_round() -> None:
    assert sorted(Path(document.source).stem for document in read_documents(EXAMPLES)) == NAMES
    assert len(NAMES) >= 25


def test_no_two_examples_hold_the_same_policy() -> None:
    keys = [policy.key for name in NAMES for policy in world_of(name).policies]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", NAMES)
def test_an_example_tells_its_story_first(name: str) -> None:
    lines = (EXAMPLES / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_its_tests(name: str) -> None:
    result = run_test(TESTS[name])
    assert result.problems == ()
    assert [f"{case.case.name}: {case.fault}" for case in result.results if not case.passed] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_example_is_worth_a_warning(name: str) -> None:
    assert [str(problem) for problem in lint(world_of(name))] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_of_an_example_show_both_sides(name: str) -> None:
    verdicts = {case.expect for case in load_test(TESTS[name]).test.cases}
    assert Verdict.ALLOW in verdicts
    assert verdicts & {Verdict.DENY, Verdict.REDIRECT}


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_notice_when_a_policy_is_missing(name: str) -> None:
    world = world_of(name)
    cases = load_test(TESTS[name]).test.cases
    for missing in world.policies:
        rest = World.of((policy for policy in world.policies if policy is not missing), world.endpoints)
        verdicts = [(run_case(rest, case).verdict, case.expect) for case in cases]
        assert any(got is not wanted for got, wanted in verdicts), f"nothing changes without {missing}"


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_of_an_example_is_met_by_a_flow(name: str) -> None:
    world = world_of(name)
    rules = {
        str(rule.origin)
        for endpoint in world.endpoints
        for side in (world.policy_of(endpoint).ingress, world.policy_of(endpoint).egress)
        for rule in side.rules
        if rule.origin.source and rule.peers != frozenset()  # neither built-in nor the idiom for nobody
    }
    for case in load_test(TESTS[name]).test.cases:
        explanation = explain(world, case.flow)
        for side in (explanation.egress, explanation.ingress):
            if side is not None:
                rules -= {str(item.rule.origin) for item in side.considered if item.matched}
    assert rules == set()
