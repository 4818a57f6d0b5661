"""Selectors: the requirement by requirement meaning, and the index against it."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.identity_index import IdentityIndex
from lockgate.policies.labels import Label, Labels
from lockgate.policies.selector import Operator, Requirement, Selector

KEYS = st.sampled_from(["app", "tier"])
VALUES = st.sampled_from(["", "a", "b"])
LABELS = st.builds(Label, st.sampled_from(["k8s", "container", "reserved"]), KEYS, VALUES)
REQUIREMENTS = st.builds(
    lambda source, key, operator, values: Requirement(
        source, key, operator, tuple(sorted(values)) if operator in (Operator.IN, Operator.NOT_IN) else ()
    ),
    st.sampled_from(["any", "k8s", "container"]),
    KEYS,
    st.sampled_from(list(Operator)),
    st.sets(VALUES, min_size=1),
)


def naive(requirement: Requirement, labels: Labels) -> bool:
    """The documented meaning, straight: positive operators ask for a label, negative ones for its absence."""
    positive = requirement.operator in (Operator.IN, Operator.EXISTS)
    for source, key, value in labels:
        if key != requirement.key or requirement.source not in ("any", source):
            continue
        if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) or value in requirement.values:
            return positive
    return not positive


@given(st.lists(REQUIREMENTS, max_size=4), st.frozensets(LABELS, max_size=5))
def test_a_selector_is_the_conjunction_of_its_requirements(items: list[Requirement], labels: frozenset[Label]) -> None:
    ordered = tuple(sorted(labels))
    selector = Selector.of(items)
    assert selector.matches(labels) == all(naive(item, ordered) for item in items)
    assert Selector.of(reversed(items)) == selector


@given(st.lists(REQUIREMENTS, max_size=4), st.lists(st.frozensets(LABELS, max_size=4), max_size=8))
def test_the_index_selects_what_matches(items: list[Requirement], label_sets: list[frozenset[Label]]) -> None:
    identities = {number: tuple(sorted(labels)) for number, labels in enumerate(label_sets, 100)}
    selector = Selector.of(items)
    expected = {number for number, labels in identities.items() if selector.matches(labels)}
    assert IdentityIndex(identities, {}).select(selector) == expected


@pytest.mark.parametrize(
    ("requirement", "text"),
    [
        (Requirement("any", "app", Operator.IN, ("a",)), "app=a"),
        (Requirement("k8s", "app", Operator.IN, ("a", "b")), "k8s:app in (a, b)"),
        (Requirement("any", "app", Operator.NOT_IN, ("a",)), "app not in (a)"),
        (Requirement("any", "app", Operator.EXISTS), "app"),
        (Requirement("any", "app", Operator.DOES_NOT_EXIST), "!app"),
        (Requirement("reserved", "host", Operator.IN, ("",)), "reserved:host"),
    ],
)
def test_a_requirement_reads_like_a_sentence(requirement: Requirement, text: str) -> None:
    assert str(requirement) == text


def test_selectors_for_people() -> None:
    assert str(Selector()) == "everybody"
    both = Selector.of([Requirement("any", "b", Operator.EXISTS), Requirement("any", "a", Operator.IN, ("1",))])
    assert str(both) == "a=1, b"
    assert both.names_key("a")
    assert not both.names_key("a", ("k8s",))


def test_equal_selectors_are_one_object_also_from_another_process() -> None:
    one, other = (Selector.of([Requirement("any", "app", Operator.IN, (value,))]) for value in ("a", "a"))
    assert one is other
    assert pickle.loads(pickle.dumps([one, other])) == [one, one]
    assert all(each is one for each in pickle.loads(pickle.dumps([one, other])))
    assert Selector.of([Requirement("any", "app", Operator.IN, ("b",))]) != one
