"""Server names as matchers, run by a matcher interpreter, against what names mean to the verdict function."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from envoy_data_plane.xds.type.matcher.v3 import Matcher
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.dns_name import server_name_matches, server_name_regex
from lockgate.tests.unit.xds.matcher_messages import Seen, verdict
from lockgate.xds.compile.matcher import OnMatch, all_of, always, descend, first_of
from lockgate.xds.compile.rbac_action import allow, deny
from lockgate.xds.compile.server_name import Held, server_name_tree

PATTERNS = (
    *("a.example", "b.example", "x.a.example", "*.example", "**.example", "*", "a*.example", "*a.*", "**.a.example"),
    *("x.*.example", "a-b_c.example", "**", "a.**.example", "*.**"),
)
NAMES = (
    *("a.example", "b.example", "x.a.example", "y.x.a.example", "ab.example", "example", ".example", "a-b_c.example"),
    *("a.y.x.example", "a!.example", "a..example"),
)

NOBODY = deny("nobody")

rules = st.lists(
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)  # fmt: skip


def said(rules: Sequence[Sequence[str]], name: str) -> str | None:
    """Who allows a connection with that server name; rules are called by their number. None when no one does."""

    def say(held: Held) -> OnMatch:
        tree = NOBODY
        for at, predicates in reversed(list(held.items())):
            named = allow(str(at))
            tree = descend(first_of([(all_of(predicates), named)], tree)) if predicates else named
        return tree

    matcher = always(server_name_tree(rules, say))
    action = verdict(Matcher.parse(matcher), Seen("10.0.0.1", "10.0.0.2", 443, server_name=name))
    assert action is not None
    return action.name if action.name != "nobody" else None


@settings(deadline=None)
@given(rules, st.sampled_from(NAMES))
def test_a_tree_finds_a_rule_that_names_the_server_when_there_is_one(rules: Sequence[Sequence[str]], name: str) -> None:
    naming = {
        str(number)
        for number, names in enumerate(rules)
        if any(server_name_matches(pattern, name) for pattern in names)
    }
    found = said(rules, name)
    assert found == min(naming, key=int) if naming else found is None


@given(rules)
def test_a_connection_that_names_no_server_matches_nothing(rules: Sequence[Sequence[str]]) -> None:
    assert said(rules, "") is None


def test_rules_without_names_hold_every_connection() -> None:
    assert {said([["a.example"], []], name) for name in ("b.example", "")} == {"1"}
    assert said([["*.example"], [], ["b.example"]], "b.example") == "0"


def test_names_and_patterns_beyond_one_expression() -> None:
    exact = [f"n{number}.example" for number in range(500)]
    patterns = [f"*.d{number}.example" for number in range(500)]
    rules = [[*exact, *patterns], ["**.d250.example"]]
    for name in ("n0.example", "n499.example", "x.d0.example", "x.d499.example"):
        assert said(rules, name) == "0"
    assert said(rules, "y.x.d250.example") == "1"
    for name in ("n500.example", "x.d500.example", "y.x.d0.example", "d0.example", "n0.example.com"):
        assert said(rules, name) is None


def test_of_two_rules_for_one_exact_name_the_first_is_told() -> None:
    assert said([["a.example"], ["b.example", "a.example"]], "a.example") == "0"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_means_the_same_to_envoy_and_to_the_verdict_function(pattern: str, name: str) -> None:
    assert (re.fullmatch(server_name_regex(pattern), name) is not None) == server_name_matches(pattern, name)
