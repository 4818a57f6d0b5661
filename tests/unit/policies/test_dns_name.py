"""Names against patterns."""

from __future__ import annotations

import pytest
from lockgate.policies.dns_name import pattern_matches, rule_matches
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
