"""Header actions: what they do to headers, and that they never tell a secret."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import HeaderMatch, MismatchAction
from lockgate.policies.header_action import HeaderAction, action_on, change
from lockgate.policies.request import HttpRequest

ADD, DELETE, LOG, REPLACE = MismatchAction.ADD, MismatchAction.DELETE, MismatchAction.LOG, MismatchAction.REPLACE


@pytest.mark.parametrize(
    ("actions", "headers"),
    [
        ([(LOG, "a", "2")], {"a": "1", "b": "x,y"}),
        ([(ADD, "a", "2")], {"a": "1,2", "b": "x,y"}),
        ([(ADD, "c", "2")], {"a": "1", "b": "x,y", "c": "2"}),
        ([(ADD, "c", None)], {"a": "1", "b": "x,y", "c": ""}),
        ([(REPLACE, "b", "2")], {"a": "1", "b": "2"}),
        ([(REPLACE, "c", None)], {"a": "1", "b": "x,y", "c": ""}),
        ([(DELETE, "b", "2")], {"a": "1"}),
        ([(DELETE, "c", "2")], {"a": "1", "b": "x,y"}),
        ([(DELETE, "a", "2"), (ADD, "a", "3"), (ADD, "a", "4")], {"a": "3,4", "b": "x,y"}),
        ([(REPLACE, "a", "2"), (REPLACE, "a", "3")], {"a": "3", "b": "x,y"}),
    ],
)
def test_what_is_left(actions: list[tuple[MismatchAction, str, str | None]], headers: dict[str, str]) -> None:
    listed = [HeaderAction(*each) for each in actions]
    assert change({"a": "1", "b": "x,y"}, listed) == headers
    assert HttpRequest("GET", "/", headers={"a": "1", "b": "x,y"}).after(listed).headers == headers


def test_nothing_is_deleted_where_nothing_is() -> None:
    assert action_on(HeaderMatch("a", "1", DELETE), None) is None
    assert action_on(HeaderMatch("a", "1", DELETE), "2") == HeaderAction(DELETE, "a", "1")
    assert action_on(HeaderMatch("a", "1", REPLACE), None) == HeaderAction(REPLACE, "a", "1")
    assert action_on(HeaderMatch("a", "1"), "2") is None


def test_a_secret_is_in_no_text() -> None:
    for action in MismatchAction:
        match = HeaderMatch("x-token", "hush", action, secret=True)
        done = HeaderAction(action, "x-token", "hush", secret=True)
        assert done.shown is None
        assert "hush" not in f"{match!r} {match} {done!r} {done} {[done]} {HttpRequest('GET', '/').after([]).hidden}"
    assert str(HeaderAction(REPLACE, "x-token", "hush", secret=True)) == "REPLACE x-token with the value of its secret"
    assert str(HeaderAction(REPLACE, "x-token", "seen")) == "REPLACE x-token with 'seen'"
    assert str(HeaderAction(ADD, "x-token", None)) == "ADD x-token"
    assert str(HeaderAction(DELETE, "x-token", "seen")) == "DELETE x-token"
