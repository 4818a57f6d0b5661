"""Patterns that were probably not meant."""

from __future__ import annotations

import pytest
from lockgate.policies.language.pattern_lint import host_warning, path_warning


@pytest.mark.parametrize("pattern", ["/api", "/api/.*", "/", "/api/[0-9]+/", ".*", "/a/?"])
def test_paths_without_a_word(pattern: str) -> None:
    assert (path_warning(pattern) is None) == (pattern != "/")


def test_paths_that_look_like_prefixes() -> None:
    assert path_warning("/api/") == (
        "matches the path '/api/' only, nothing below it",
        "write /api/.* for everything below",
    )
    assert path_warning("api/v1") == ("'api/v1' matches no request: a path starts with '/'", "write /api/v1")


@pytest.mark.parametrize(
    ("pattern", "better"),
    [
        ("api.example.com", r"api\.example\.com"),
        (r"api\.example.com", r"api\.example\.com"),
        (r"(a|b).example\.com", r"(a|b)\.example\.com"),
        (r".*\.example.com", r".*\.example\.com"),
        ("a.", r"a\."),
    ],
)
def test_hosts_with_a_bare_dot(pattern: str, better: str) -> None:
    assert host_warning(pattern) == ("an unescaped '.' matches any character", f"write {better}")


@pytest.mark.parametrize(
    "pattern", [r"api\.example\.com", "localhost", r".*\.example\.com", "[.]x", "[^.]+", ".+", "a.?", r"[]\].]"]
)
def test_hosts_without_a_word(pattern: str) -> None:
    assert host_warning(pattern) is None
