"""RE2, whole value."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.regex import is_literal, matches, regex_error


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
