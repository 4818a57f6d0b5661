"""Names against patterns."""

from __future__ import annotations

import pytest
import re2
from lockgate.policies.dns_name import pattern_matches, pattern_regex, rule_matches, server_name_matches
from lockgate.policies.endpoint_policy import DnsRule


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "anything.at.all", True),
        ("*.example", "a.example", True),
        ("*.example", "A.Example.", True),
        ("*.example", "a.b.example", False),
        ("*.example", ".example", True),
        ("*.example", "example", False),
        ("a*.example", "abc.example", True),
        ("a*.example", "bc.example", False),
        ("**.example", "a.b.example", True),
        ("**.example", "a.example", True),
        ("**.example", "example", False),
        ("a.example", "a.example", True),
        ("a.example", "axexample", False),
        ("*.*.example", "a.b.example", True),
    ],
)
def test_patterns(pattern: str, name: str, expected: bool) -> None:
    assert pattern_matches(pattern, name) is expected


def test_rules() -> None:
    assert rule_matches(DnsRule(match_name="a.example"), "A.example.")
    assert not rule_matches(DnsRule(match_name="a.example"), "b.example")
    assert rule_matches(DnsRule(match_pattern="*.example"), "b.example")


@pytest.mark.parametrize("pattern", ["a.example", "*.example", "a*b.*", "**.example", "x-y_z.*"])
def test_the_expression_means_the_same_to_re2(pattern: str) -> None:
    for name in ("a.example", "x.y.example", "example", "ab.c", "a1b.c", "x-y_z.q", "axexample", "a.example.example"):
        assert bool(re2.fullmatch(pattern_regex(pattern), name)) is pattern_matches(pattern, name), name
        assert server_name_matches(pattern, name) is pattern_matches(pattern, name)


def test_server_names() -> None:
    assert server_name_matches("*", "any.name.at-all")
    assert server_name_matches("a.example", "A.Example")
    assert not server_name_matches("a.example", "a.example.")
    assert not server_name_matches("*", "")
    assert not server_name_matches("*.example", "")
