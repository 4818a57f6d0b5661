"""Numeric identities: stable, distinct, in their ranges."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st
from lockgate.policies.identity import (
    CIDR_IDENTITIES,
    RESERVED_LABELS,
    RESERVED_NAMES,
    WORKLOAD_IDENTITIES,
    Reserved,
    cidr_labels,
    endpoint_of,
    hash_labels,
    number_labels,
    workload_identity,
)
from lockgate.policies.labels import Label, workload_labels
from lockgate.policies.workload import Workload

LABELS = st.builds(lambda text: (Label("k8s", "app", text),), st.text("abc", min_size=1, max_size=3))


def test_reserved_numbers_are_those_of_the_reference() -> None:
    assert {item.label: int(item) for item in Reserved} == {
        "host": 1,
        "world": 2,
        "unmanaged": 3,
        "health": 4,
        "init": 5,
        "remote-node": 6,
        "kube-apiserver": 7,
        "ingress": 8,
        "world-ipv4": 9,
        "world-ipv6": 10,
    }
    assert RESERVED_NAMES["world-ipv4"] is Reserved.WORLD_IPV4
    assert Label("reserved", "remote-node") in RESERVED_LABELS[Reserved.KUBE_APISERVER]


def test_a_number_never_changes() -> None:
    """These are pinned: another number would cut live connections when a node is upgraded."""
    assert workload_identity(Workload("a", "default", (("app", "web"),))) == 1234253353
    assert hash_labels(cidr_labels(ip_network("10.0.0.0/8")), CIDR_IDENTITIES) == 2737783996


def test_replicas_share_a_number_and_namespaces_do_not() -> None:
    one, two = (Workload(name, "default", (("app", "web"),)) for name in ("a", "b"))
    other = Workload("a", "shop", (("app", "web"),))
    assert workload_identity(one) == workload_identity(two) != workload_identity(other)
    assert workload_identity(one) in WORKLOAD_IDENTITIES
    assert workload_identity(one) == hash_labels(workload_labels("default", one.labels), WORKLOAD_IDENTITIES)
    assert endpoint_of(one, 7, "veth7").identity == workload_identity(one)


@given(st.lists(LABELS, max_size=12))
def test_numbers_are_distinct_and_independent_of_order(sets: list[tuple[Label, ...]]) -> None:
    tight = range(1000, 1000 + max(1, len(set(sets))))  # as many numbers as sets: collisions are certain
    numbered = number_labels(sets, tight)
    assert sorted(numbered.values()) == sorted(set(numbered.values()))
    assert set(numbered.values()) <= set(tight)
    assert number_labels(reversed(sets), tight) == numbered


def test_cidr_labels_name_the_world_of_their_family() -> None:
    assert [str(label) for label in cidr_labels(ip_network("10.0.0.0/8"))] == ["cidr:10.0.0.0/8", "reserved:world-ipv4"]
    assert [str(label) for label in cidr_labels(ip_network("fd00::/8"))] == ["cidr:fd00::/8", "reserved:world-ipv6"]
