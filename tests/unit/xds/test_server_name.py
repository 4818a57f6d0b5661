"""Server names as matchers, run by a matcher interpreter, against what names mean to the verdict function."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import re2
from envoy_data_plane.xds.type.matcher.v3 import MatcherOnMatch
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.dns_name import server_name_matches
from lockgate.tests.unit.xds.matcher_messages import Seen, verdict
from lockgate.xds.rbac_action import allow
from lockgate.xds.server_name import name_regex, server_name_tree

PATTERNS = (
    *("a.example", "b.example", "x.a.example", "*.example", "**.example", "*", "a*.example", "*a.*", "**.a.example"),
    *("x.*.example", "a-b_c.example"),
)
NAMES = ("a.example", "b.example", "x.a.example", "y.x.a.example", "ab.example", "example", ".example", "a-b_c.example")

rules = st.lists(
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4
)  # fmt: skip


def said(rules: Sequence[Sequence[str]], name: str) -> str | None:
    """Who allows a connection with that server name; rules are called by their number."""
    tree = server_name_tree([(names, allow(str(number))) for number, names in enumerate(rules)])
    assert tree is not None
    matcher = MatcherOnMatch.parse(tree).matcher
    assert matcher is not None
    action = verdict(matcher, Seen("10.0.0.1", "10.0.0.2", 443, server_name=name))
    return action.name if action is not None else None


@settings(deadline=None)
@given(rules, st.sampled_from(NAMES))
def test_a_tree_finds_a_rule_that_names_the_server_when_there_is_one(rules: Sequence[Sequence[str]], name: str) -> None:
    naming = {
        str(number)
        for number, names in enumerate(rules)
        if any(server_name_matches(pattern, name) for pattern in names)
    }
    found = said(rules, name)
    assert found in naming if naming else found is None


@given(rules)
def test_a_connection_that_names_no_server_matches_nothing(rules: Sequence[Sequence[str]]) -> None:
    assert said(rules, "") is None


def test_no_rules_are_no_tree() -> None:
    assert server_name_tree([]) is None


def test_of_two_rules_for_one_exact_name_the_first_is_told() -> None:
    assert said([["a.example"], ["b.example", "a.example"]], "a.example") == "0"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_means_the_same_to_envoy_and_to_the_verdict_function(pattern: str, name: str) -> None:
    assert (re2.fullmatch(name_regex(pattern), name) is not None) == server_name_matches(pattern, name)
