"""The path that rules see, and what is no path at all. That Envoy agrees is shown end to end (test_http_path_envoy)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import DirectionPolicy, HttpRule, HttpRules, PortSpan, Protocol, ResolvedRule
from lockgate.policies.http_path import judged_path
from lockgate.policies.request import HttpRequest
from lockgate.policies.verdict import Judgement, Verdict, judge
from lockgate.tests.unit.xds.policy_strategies import origin

TABLE = [
    ("/", "/"),
    ("/api/v1/users?id=1", "/api/v1/users?id=1"),
    ("/a/../b", "/b"),
    ("/a/./b", "/a/b"),
    ("/a/..", "/"),
    ("/a/b/.", "/a/b/"),
    ("/../../b", "/b"),
    ("/a/%2e%2E/b", "/b"),
    ("/a/.%2e/b", "/b"),
    ("/a/.../b", "/a/.../b"),
    ("/a/..b/.c", "/a/..b/.c"),
    ("/a//b", "/a/b"),
    ("//a//", "/a/"),
    ("//", "//"),
    ("/a//../b", "/a/b"),
    ("/a\\b", "/a/b"),
    ("/a\\..\\b", "/b"),
    ("/%41%7e%2d", "/A~-"),
    ("/%3a%20%c3%A9", "/%3a%20%c3%A9"),
    ('/"<>^`{|}', "/%22%3C%3E%5E%60%7B%7C%7D"),
    ("/é", "/%C3%A9"),
    ("/%", "/%"),
    ("/%zz%4", "/%zz%4"),
    ("/%2%66", "/%252f"),
    ("/%%32f", "/%252f"),
    ("/%25%32%66", "/%252f"),
    ("/%252f", "/%252f"),
    ("/a/..;x/b", "/b"),
    ("/a/.;/b", "/a/b"),
    ("/a/b..;/c", "/a/b..;/c"),
    ("/a;x/b;y", "/a;x/b;y"),
    ("/a?x=/../%2f//./%00\\", "/a?x=/../%2f//./%00\\"),
    ("/a/..?/b", "/?/b"),
    ("/?", "/?"),
]


@pytest.mark.parametrize(("written", "judged"), TABLE)
def test_the_path_is_made_plain(written: str, judged: str) -> None:
    assert judged_path(written) == (judged, "")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "a path starts with '/'"),
        ("*", "a path starts with '/'"),
        ("a/b", "a path starts with '/'"),
        ("http://api/a", "a path starts with '/'"),
        ("/a b", "blanks and control characters have to be escaped"),
        ("/a?b=\x7f", "blanks and control characters have to be escaped"),
        ("/a#b", "a fragment ('#') is for the client alone"),
        ("/a?b#c", "a fragment ('#') is for the client alone"),
        ("/a%2Fb", "an escaped slash (%2F, %5C) is a slash to one server and none to another"),
        ("/a%5cb?c", "an escaped slash (%2F, %5C) is a slash to one server and none to another"),
        ("/a%00", "no path holds a NUL (%00)"),
        ("/a/%2e%2e;/b", "dots with parameters (/..;) are dots to one server and a name to another"),
        ("/a\\..;x/b", "dots with parameters (/..;) are dots to one server and a name to another"),
    ],
)
def test_what_cannot_be_judged_is_refused(path: str, reason: str) -> None:
    assert judged_path(path) == ("", reason)


@given(st.text(alphabet='/.%2eEfF5cC;ab\\?"', max_size=20).map(lambda text: f"/{text}"))
def test_what_is_judged_holds_nothing_that_a_server_could_resolve(path: str) -> None:
    judged, refusal = judged_path(path)
    bare = judged.partition("?")[0]
    segments = bare.split("/")
    assert refusal or bare.startswith("/")
    assert not {".", ".."} & set(segments) and "\\" not in bare
    assert not any(segment.startswith((".;", "..;")) for segment in segments)
    assert "" not in segments[1:-1] or bare == "//"
    assert "%2f" not in bare.lower() and "%5c" not in bare.lower() and "%2e" not in bare.lower()
    assert refusal or judged.partition("?")[2] == path.partition("?")[2]


def judged(path: str, *rules: ResolvedRule) -> Judgement:
    return judge(DirectionPolicy(True, rules), 100, Protocol.TCP, 80, HttpRequest("GET", path))


PORT = (PortSpan(Protocol.TCP, 80, 80),)
PUBLIC = ResolvedRule(origin("p"), False, None, PORT, HttpRules((HttpRule("/public/.*"),)))


def test_a_rule_is_about_the_plain_path_and_says_so() -> None:
    denied = judged("/public/../secret", PUBLIC)
    assert denied.verdict is Verdict.DENY
    assert denied.considered[0].why == (
        "path /secret does not match /public/.* (path /public/../secret is judged as /secret)"
    )
    allowed = judged("/x/../public/a", PUBLIC)
    assert allowed.verdict is Verdict.ALLOW
    assert allowed.considered[0].why == "GET /public/a matches (path /x/../public/a is judged as /public/a)"


def test_what_envoy_refuses_is_denied_whatever_the_rules_say() -> None:
    plain = ResolvedRule(origin("plain"), False, None, PORT)
    found = judged("/public/a%2Fb", PUBLIC, plain)
    assert (found.verdict, found.rule) == (Verdict.DENY, None)
    assert found.reason == (
        "Envoy refuses the path /public/a%2Fb before any rule is asked: "
        "an escaped slash (%2F, %5C) is a slash to one server and none to another"
    )
    assert judged("/public/a%2Fb", plain).verdict is Verdict.ALLOW  # never goes through Envoy
