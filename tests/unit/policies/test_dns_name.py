"""Names against patterns."""

from __future__ import annotations

import re

import pytest
from lockgate.policies.dns_name import (
    canonical_pattern,
    pattern_matches,
    pattern_regex,
    rule_matches,
    server_name_matches,
)
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
def test_the_expression_means_the_same_to_python(pattern: str) -> None:
    for name in ("a.example", "x.y.example", "example", "ab.c", "a1b.c", "x-y_z.q", "axexample", "a.example.example"):
        assert bool(re.fullmatch(pattern_regex(pattern), name)) is pattern_matches(pattern, name), name
        assert server_name_matches(pattern, name) is pattern_matches(pattern, name)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("*", "*"),
        ("**", "*"),
        ("****", "*"),
        ("", ""),  # the root, written "."
        ("***.example", "**.example"),
        ("**.example", "**.example"),
        ("**example", "**example"),
        ("a.**.example", "a.**.example"),
        ("*.**", "*.**"),
    ],
)
def test_stars_that_mean_the_same_are_written_alike(written: str, canonical: str) -> None:
    assert canonical_pattern(written) == canonical


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*example", "example", True),
        ("*example", "anexample", True),
        ("*example", "a.example", False),
        ("**example", "anexample", True),  # two stars are labels before a dot only
        ("**example", "a.example", False),
        ("a.**.example", "a.b.example", True),
        ("a.**.example", "a.b.c.example", False),
        ("**.*.example", "a.b.example", True),
        ("**.*.example", "b.example", False),
        ("**.ex*", "a.b.example", True),
        ("**.example", "a..example", False),
        ("**.example", "a b.example", False),
        ("_srv._tcp.example", "_srv._tcp.example", True),
        ("*.*.example", "_srv._tcp.example", True),
        ("", "", True),
        ("", "example", False),
    ],
)
def test_patterns_of_the_dns(pattern: str, name: str, expected: bool) -> None:
    assert pattern_matches(pattern, name) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("*", "any.name.at-all", True),
        ("*", "example", True),
        ("*", "", False),
        ("*", "no name", False),
        ("*", "a..example", False),
        ("**", "a.b.c", True),
        ("*.example", "", False),
        ("*.example", "a.example", True),
        ("*.example", "a.b.example", False),
        ("*example", "example", True),
        ("*example", "anexample", True),
        ("*example", "a.example", False),
        ("a*.example", "a-b.example", True),
        ("**.example", "a.b.example", True),
        ("**.example", "example", False),
        ("a.**.example", "a.b.c.example", True),  # whole labels, wherever they stand
        ("a.**.example", "a.example", False),
        ("a.example", "A.Example", True),
        ("a.example", "a.example.", False),
    ],
)
def test_server_names(pattern: str, name: str, expected: bool) -> None:
    assert server_name_matches(pattern, name) is expected


@pytest.mark.parametrize("pattern", ["*a" * 100 + "b", "**." * 80 + "b", "*-" * 127])
def test_stars_take_no_longer_the_more_there_are(pattern: str) -> None:
    """Python's own expressions would not come to an end."""
    for name in ("a" * 63 + ".b", "a." * 120 + "c", "-" * 63):
        assert not pattern_matches(canonical_pattern(pattern[:-1] + "z"), name)
        assert not server_name_matches(pattern[:-1] + "z", name)
