"""Labels in tables."""

from __future__ import annotations

from lockgate.agent.cli.labels import own_labels
from lockgate.policies.labels import workload_labels


def test_what_follows_from_the_namespace_is_left_out() -> None:
    labels = [str(label) for label in workload_labels("prod", (("app", "api"), ("role", "x")))]
    assert len(labels) > 3
    assert own_labels(labels) == "k8s:app=api, k8s:role=x in prod"
    assert own_labels(labels, namespace=False) == "k8s:app=api, k8s:role=x"


def test_other_identities_are_shown_whole() -> None:
    assert own_labels(["reserved:host", "cidr:192.0.2.0/24"]) == "reserved:host, cidr:192.0.2.0/24"
    assert own_labels([str(label) for label in workload_labels("default", ())]) == "- in default"
