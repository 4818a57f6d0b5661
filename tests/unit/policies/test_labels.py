"""Labels and their sources."""

from __future__ import annotations

import pytest
from lockgate.policies.labels import Label, split_key, valid_key, valid_value, workload_labels


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (Label("k8s", "app", "web"), "k8s:app=web"),
        (Label("reserved", "world"), "reserved:world"),
        (Label("cidr", "fd00::/8"), "cidr:fd00::/8"),
    ],
)
def test_labels_read_as_in_the_reference(label: Label, text: str) -> None:
    assert str(label) == text


def test_the_default_source_depends_on_the_place() -> None:
    assert split_key("app", "any") == ("any", "app")
    assert split_key("k8s:app", "any") == ("k8s", "app")
    assert split_key("app.example.com/name", "k8s") == ("k8s", "app.example.com/name")


@pytest.mark.parametrize(
    ("key", "valid"),
    [
        ("app", True),
        ("app.kubernetes.io/name", True),
        ("io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", True),
        ("A_b-c.d", True),
        ("-a", False),
        ("a b", False),
        ("", False),
        ("a" * 400, False),
        ("é", False),
    ],
)
def test_keys(key: str, valid: bool) -> None:
    assert valid_key(key) is valid


@pytest.mark.parametrize(
    ("value", "valid"),
    [("", True), ("a", True), ("v1.2-3_x", True), ("a" * 63, True), ("a" * 64, False), ("-", False), ("a ", False)],
)
def test_values(value: str, valid: bool) -> None:
    assert valid_value(value) is valid


def test_a_workload_gets_its_implicit_labels_and_cannot_override_them() -> None:
    labels = workload_labels("shop", [("app", "cart"), ("k8s:io.kubernetes.pod.namespace", "default")])
    assert [str(label) for label in labels] == [
        "k8s:app=cart",
        "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.kubernetes.pod.namespace=shop",
    ]
