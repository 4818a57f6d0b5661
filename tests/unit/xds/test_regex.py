"""Reduction of regular expressions: a table of what people write, and the proof against RE2 itself."""

from __future__ import annotations

import pytest
import re2
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lockgate.xds.compile.regex import MOST_STRINGS, Reduction, alternation, reduce


def exact(*values: str) -> Reduction:
    return Reduction(exact=frozenset(values))


def prefix(*values: str) -> Reduction:
    return Reduction(prefixes=frozenset(values))


def regex(*pairs: tuple[str, str]) -> Reduction:
    return Reduction(regexes=pairs)


@pytest.mark.parametrize(
    ("source", "reduced"),
    [
        ("/api/v1/users", exact("/api/v1/users")),
        ("^/api$", exact("/api")),
        ("", exact("")),
        (r"/a\.b\?c=\$", exact("/a.b?c=$")),
        ("GET|POST", exact("GET", "POST")),
        ("/(a|b)/(x|y)", exact("/a/x", "/a/y", "/b/x", "/b/y")),
        ("/(?:a|b|)/", exact("/a/", "/b/", "//")),
        ("/v[12]", exact("/v1", "/v2")),
        ("/v[a-c_]", exact("/va", "/vb", "/vc", "/v_")),
        ("/v[a-]", exact("/va", "/v-")),
        (r"/v[\]\-]", exact("/v]", "/v-")),
        ("https?://", exact("http://", "https://")),
        ("/a(bc)??d", exact("/ad", "/abcd")),
        ("/a(b[12]?)?", exact("/a", "/ab", "/ab1", "/ab2")),
        ("/api/.*", prefix("/api/")),
        ("^/api/.*$", prefix("/api/")),
        ("/api/.*?", prefix("/api/")),
        ("/(a|b)/.*", prefix("/a/", "/b/")),
        ("/a.*.*", prefix("/a")),
        (".*", prefix("")),
        ("/a|/b/.*", Reduction(exact=frozenset({"/a"}), prefixes=frozenset({"/b/"}))),
        ("/(a|b.*)", Reduction(exact=frozenset({"/a"}), prefixes=frozenset({"/b"}))),
        ("/ü/é?", exact("/ü/", "/ü/é")),
        ("/users/[0-9]+", regex(("/users/", "/users/[0-9]+"))),
        ("/a.b", regex(("/a", "/a.b"))),
        ("/ab*", regex(("/a", "/ab*"))),
        ("/ab{2}", regex(("/a", "/ab{2}"))),
        ("/a/.*/b", regex(("/a/", "/a/.*/b"))),
        ("/a.+", regex(("/a", "/a.+"))),
        (r"/a/\d", regex(("/a/", r"/a/\d"))),
        ("/(ab|ac)[^/]", regex(("/a", "/(ab|ac)[^/]"))),
        ("/a|/b/[0-9]+", Reduction(exact=frozenset({"/a"}), regexes=(("/b/", "/b/[0-9]+"),))),
        (".*/x", regex(("", ".*/x"))),
        ("(?i)/a", regex(("", "(?i)/a"))),
        ("/a|(?i)/b|/c", regex(("", "/a|(?i)/b|/c"))),
        (r"\Q/a|b\E", regex(("", r"\Q/a|b\E"))),
        ("/a[[:alpha:]]", regex(("", "/a[[:alpha:]]"))),
        ("/(^a)", regex(("/", "/(^a)"))),
        ("/a$b", regex(("/a", "/a$b"))),
        ("^*/a", regex(("", "^*/a"))),
        ("/[a-z][a-z]", regex(("/", "/[a-z][a-z]"))),
    ],
)
def test_reduces(source: str, reduced: Reduction) -> None:
    assert reduce(source) == reduced


def test_spells_out_only_so_many_words() -> None:
    few = "(a|b)" * 6
    assert len(reduce(few).exact) == MOST_STRINGS
    assert reduce(few + "(a|b)").regexes == (("", few + "(a|b)"),)


def test_an_alternation_keeps_its_parts_apart() -> None:
    assert alternation(["a"]) == "a"
    joined = re2.compile(alternation(["a|b", "c"]))
    assert joined.fullmatch("c") and joined.fullmatch("b") and not joined.fullmatch("ac")


_QUOTED = st.lists(st.sampled_from(["a", "b.", r"\Q", r"\E", r"\\", ".*", "(", ")", "|"]), max_size=6).map("".join)


@settings(max_examples=300, deadline=None)
@given(st.lists(_QUOTED, min_size=2, max_size=3), st.text("ab.|()\\QE", max_size=5))
@example([r"\Q/a", "b.*"], "bc")
@example([r"/\Q", r"b\Q\E.*"], r"/)|(?:b\Qx")
def test_an_alternation_keeps_quotes_apart(listed: list[str], value: str) -> None:
    assume(all(valid(each) for each in listed))
    assert bool(re2.fullmatch(alternation(listed), value)) is any(re2.fullmatch(each, value) for each in listed)


def valid(pattern: str) -> bool:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error:
        return False
    return True


_CHARS = "ab/.-"
_PIECES = st.sampled_from(
    [
        "a",
        "b",
        "/",
        r"\.",
        ".",
        "[ab]",
        "[^a]",
        "[a-c]",
        "(a|b)",
        "(?:a|/b)",
        "(a.*|b)",
        "(|a)",
        "^",
        "$",
        r"\d",
        "(?i)",
    ]
)
_QUANTIFIED = st.builds(
    lambda piece, tail: piece + tail, _PIECES, st.sampled_from(["", "", "", "?", "*", "+", "??", "*?"])
)
_SEQUENCE = st.lists(_QUANTIFIED, max_size=5).map("".join)
_REGEX = st.lists(_SEQUENCE, min_size=1, max_size=3).map("|".join)


def _reduced_matches(reduced: Reduction, value: str) -> bool:
    return (
        value in reduced.exact
        or any(value.startswith(head) for head in reduced.prefixes)
        or any(re2.compile(residual).fullmatch(value) is not None for _, residual in reduced.regexes)
    )


@settings(deadline=None)
@given(_REGEX, st.lists(st.text(_CHARS + "1A", max_size=6), min_size=1, max_size=8))
@example("/a.*|^b$", ["/a/1", "b", "bb"])
@example("(a.*|b)?", ["", "a1", "b", "ba"])
def test_means_the_same_to_re2(source: str, values: list[str]) -> None:
    try:
        compiled = re2.compile(source)
    except re2.error:
        return  # policies refuse it before it gets here
    reduced = reduce(source)
    words = [*reduced.exact, *reduced.prefixes, *(head for head, _ in reduced.regexes)]
    for value in (*values, *words, *(word + value for word in words for value in values)):
        expected = compiled.fullmatch(value) is not None
        assert _reduced_matches(reduced, value) == expected, (source, value, reduced)
        for head, residual in reduced.regexes:
            if re2.compile(residual).fullmatch(value) is not None:
                assert value.startswith(head)


@pytest.mark.parametrize("open_group", ["(", "(?:", "(a|", "(b?"])
def test_groups_in_groups_are_left_to_re2(open_group: str) -> None:
    """RE2 takes a thousand of them, and Python's stack ends before."""
    source = "/" + open_group * 900 + "a" + ")" * 900
    assert re2.fullmatch(source, "/a")
    assert reduce(source).regexes
