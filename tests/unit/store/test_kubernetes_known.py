"""Lists and events of one collection, as a table of what a server may send."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.store.kubernetes.known import ExpiredError, Known, RefusedError
from lockgate.store.kubernetes.resource import NAMESPACES


def space(name: str, version: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version, "labels": labels}}


def event(kind: str, told: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": told}


def known() -> Known:
    made = Known(NAMESPACES)
    assert made.replace([space("a", "5"), space("b", "7", team="x")], "10")
    return made


def labels(of: Known) -> dict[str, dict[str, str]]:
    return {key: told["metadata"]["labels"] for key, told in of.objects.items()}


@pytest.mark.parametrize(
    ("came", "changed", "then", "version"),
    [
        (event("ADDED", space("c", "11")), True, {"a": {}, "b": {"team": "x"}, "c": {}}, "11"),
        (event("MODIFIED", space("a", "11", team="y")), True, {"a": {"team": "y"}, "b": {"team": "x"}}, "11"),
        (event("MODIFIED", space("b", "11", team="x")), False, {"a": {}, "b": {"team": "x"}}, "11"),
        (event("DELETED", space("b", "11")), True, {"a": {}}, "11"),
        (event("DELETED", space("nobody", "11")), False, {"a": {}, "b": {"team": "x"}}, "11"),
        (event("BOOKMARK", {"metadata": {"resourceVersion": "99"}}), False, {"a": {}, "b": {"team": "x"}}, "99"),
        # Older than what is known, of the object or of the whole.
        (event("MODIFIED", space("b", "6")), False, {"a": {}, "b": {"team": "x"}}, "10"),
        (event("DELETED", space("b", "6")), False, {"a": {}, "b": {"team": "x"}}, "10"),
        (event("BOOKMARK", {"metadata": {"resourceVersion": "9"}}), False, {"a": {}, "b": {"team": "x"}}, "10"),
        # Versions that are no numbers cannot be compared: they are taken as they come.
        (event("DELETED", space("b", "x6")), True, {"a": {}}, "x6"),
    ],
)
def test_an_event(came: dict[str, Any], changed: bool, then: dict[str, Any], version: str) -> None:
    of = known()
    assert of.apply(came) is changed
    assert (labels(of), of.version) == (then, version)


def test_news_from_before_its_end_do_not_bring_an_object_back() -> None:
    of = known()
    assert of.apply(event("DELETED", space("b", "12")))
    assert not of.apply(event("MODIFIED", space("b", "11", team="x")))
    assert of.apply(event("ADDED", space("b", "13")))
    for number in range(5000):
        of.apply(event("DELETED", space(f"gone-{number}", str(20 + number))))
    assert len(of._versions) < 2500, "what is remembered of the dead is bounded"


@given(data=st.data(), length=st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_repeated_and_old_news_change_nothing(data: st.DataObject, length: int) -> None:
    """Whatever was sent before may come again, in any order: what is known in the end is what there is."""
    truth: dict[str, dict[str, str]] = {}
    history: list[dict[str, Any]] = []
    of = Known(NAMESPACES)
    of.replace([], "1")
    for version in range(2, length + 2):
        name = data.draw(st.sampled_from("abc"))
        if name in truth and data.draw(st.booleans()):
            history.append(event("DELETED", space(name, str(version), **truth.pop(name))))
        else:
            kind = "MODIFIED" if name in truth else "ADDED"
            truth[name] = {"n": str(version)}
            history.append(event(kind, space(name, str(version), **truth[name])))
        of.apply(history[-1])
        for again in data.draw(st.lists(st.sampled_from(history), max_size=3)):
            of.apply(again)
        assert (labels(of), of.version) == (truth, str(version))


def test_a_list_takes_the_place_of_what_was_known() -> None:
    of = known()
    before = of.objects["b"]
    assert of.replace([space("b", "12", team="x")], "12")
    assert (labels(of), of.version) == ({"b": {"team": "x"}}, "12")
    assert of.objects["b"] is before, "what did not change is the same object"
    assert not of.replace([space("b", "20", team="x")], "20")
    assert of.replace([], "3"), "a server that was set back to an older state is believed"
    assert of.version == "3"


def test_an_object_that_is_made_anew_is_another() -> None:
    of = known()
    before = of.objects["a"]
    again = space("a", "12")
    again["metadata"]["uid"] = "another"
    assert of.apply(event("ADDED", again))
    assert of.objects["a"] != before


def test_the_server_has_forgotten() -> None:
    of = known()
    with pytest.raises(ExpiredError):
        of.apply(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}))
    assert labels(of) == {"a": {}, "b": {"team": "x"}}


def test_the_server_refuses() -> None:
    with pytest.raises(RefusedError, match="500 etcd is away"):
        known().apply(event("ERROR", {"kind": "Status", "code": 500, "message": "etcd is away"}))


@pytest.mark.parametrize(
    "came",
    [
        {},
        {"type": "ADDED"},
        {"type": "ADDED", "object": None},
        {"type": "ADDED", "object": {}},
        {"type": "ADDED", "object": {"metadata": {}}},
        {"type": "ADDED", "object": {"metadata": {"name": "x", "labels": 7}, "spec": []}} | {"type": "OTHER"},
        {"type": "ERROR", "object": {"code": "x"}},
    ],
)
def test_what_is_no_event(came: dict[str, Any]) -> None:
    of = known()
    with pytest.raises(ValueError, match="event"):
        of.apply(came)
    assert labels(of) == {"a": {}, "b": {"team": "x"}}
