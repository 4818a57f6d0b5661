"""Labels and their sources."""

from __future__ import annotations

import pytest
from lockgate.policies.errors import LabelError
from lockgate.policies.labels import Label, parse_label, split_key, valid_key, valid_value, workload_labels


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("k8s:app=web", Label("k8s", "app", "web")),
        ("app=web", Label("k8s", "app", "web")),
        ("reserved:world", Label("reserved", "world")),
        ("container:a=b=c", Label("container", "a", "b=c")),
        ("cidr:fd00::/8", Label("cidr", "fd00::/8")),
        ("k8s:app=", Label("k8s", "app")),
        ("other:app=x", Label("k8s", "other:app", "x")),
    ],
)
def test_labels_are_read(text: str, label: Label) -> None:
    assert parse_label(text) == label
    assert parse_label(str(label)) == label


@pytest.mark.parametrize("text", ["", "=x", "k8s:=x"])
def test_a_label_needs_a_key(text: str) -> None:
    with pytest.raises(LabelError, match="is not a label"):
        parse_label(text)


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
