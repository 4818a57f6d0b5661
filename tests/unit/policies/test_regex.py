"""RE2, whole value."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies import parse_policies
from lockgate.policies.regex import LONGEST, is_literal, matches, measured, regex_error


@pytest.mark.parametrize(
    ("pattern", "value", "expected"),
    [
        ("/x", "/x", True),
        ("/x", "/x/", False),
        ("/x", "a/x", False),
        ("/x.*", "/x?y", True),
        ("/(a|b)[12]", "/b2", True),
        ("a.c", "a\nc", False),
        ("(?s)a.c", "a\nc", True),
        ("é", "é", True),
        (".", "é", True),
        ("(?i)get", "GET", True),
        ("^/x$", "/x", True),
    ],
)
def test_matches(pattern: str, value: str, expected: bool) -> None:
    assert matches(pattern, value) is expected


@pytest.mark.parametrize("pattern", ["(", "a**", "(?=x)", r"\1", "[z-a]", "a{1001}", "(?P<x", "\\"])
def test_errors_come_from_re2(pattern: str) -> None:
    assert regex_error(pattern)


def test_what_python_would_refuse_is_fine() -> None:
    assert regex_error(r"\pL+\z") is None
    assert regex_error("/plain") is None


@given(st.text("ab/-_ .*+?()[]{}|^$\\é", max_size=6), st.text("ab/-_ .é", max_size=6))
def test_a_literal_is_what_it_says(pattern: str, value: str) -> None:
    if is_literal(pattern):
        assert matches(pattern, value) == (pattern == value)
        assert regex_error(pattern) is None
        assert re.escape(pattern).replace("\\", "") == pattern


@pytest.mark.parametrize("pattern", [".{1000}", r"\\pL{1000}", r"\\pL{30}"])
def test_the_patterns_of_a_policy_are_bounded_together(pattern: str) -> None:
    """A few bytes can ask for a tenth of a second; no policy holds up the others for long."""
    problems = parse_policies(policy(f"/{number}{pattern}" for number in range(1000)), "many").problems
    assert [each for each in problems if "come to more than 250000 instructions" in each.message]
    assert sum("instructions" in each.message for each in problems) == 1, "told once"


def test_ten_thousand_ordinary_patterns_are_none_too_many() -> None:
    assert parse_policies(policy(f"/{number}/[a-z0-9-]+/.*" for number in range(10_000)), "ordinary").ok


def test_a_pattern_is_not_endless() -> None:
    assert parse_policies(policy(["/" + "a" * (LONGEST - 2) + ".*"]), "long").problems
    assert measured("/" + "a?" * 4000)[1] > 8000


def policy(paths: Iterable[str]) -> bytes:
    """With these patterns for paths."""
    rules = "".join(f'\n        - path: "{path}"' for path in paths)
    head = (
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: many}\nspec:\n  endpointSelector: {}\n"
    )
    ports = '  ingress:\n  - toPorts:\n    - ports: [{port: "80", protocol: TCP}]\n      rules:\n        http:'
    return (head + ports + rules).encode()
