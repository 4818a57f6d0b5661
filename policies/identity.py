"""Numeric identities: one number for each distinct set of labels.

The number is a hash of the labels and of nothing else: every node, and the same node after a restart, comes to the
same number with nothing stored. Reserved numbers are Cilium's
(https://docs.cilium.io/en/stable/internals/security-identities/).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, ip_network
from types import MappingProxyType
from typing import TypeAlias

from .labels import CIDR, RESERVED, Label, Labels, workload_labels
from .workload import Endpoint, IPAddress, Workload

IPNetwork: TypeAlias = IPv4Network | IPv6Network

WORKLOAD_IDENTITIES = range(1 << 16, 1 << 31)
CIDR_IDENTITIES = range(1 << 31, 1 << 32)


class Reserved(IntEnum):
    """Identities that exist without any workload."""

    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10

    @property
    def label(self) -> str:
        """`host`, `remote-node`, `world-ipv4`, ..."""
        return self.name.lower().replace("_", "-")


def _reserved_labels(identity: Reserved) -> Labels:
    labels = {Label(RESERVED, identity.label)}
    if identity is Reserved.KUBE_APISERVER:
        labels.add(Label(RESERVED, Reserved.REMOTE_NODE.label))
    return tuple(sorted(labels))


RESERVED_LABELS: Mapping[int, Labels] = MappingProxyType({int(item): _reserved_labels(item) for item in Reserved})
RESERVED_NAMES: Mapping[str, Reserved] = MappingProxyType({item.label: item for item in Reserved})


def hash_labels(labels: Labels, numbers: range) -> int:
    """The first choice of number for a sorted label set."""
    text = "\0".join(str(label) for label in labels).encode()
    return numbers[int.from_bytes(blake2b(text, digest_size=8).digest(), "big") % len(numbers)]


def number_labels(label_sets: Iterable[Labels], numbers: range) -> dict[Labels, int]:
    """A distinct number for each label set.

    Two sets with the same hash are told apart by probing the next free number in the sorted order of the sets, so the
    outcome depends on the sets alone.
    """
    taken: dict[int, Labels] = {}
    numbered: dict[Labels, int] = {}
    for labels in sorted(set(label_sets)):
        number = hash_labels(labels, numbers)
        while number in taken:
            number = number + 1 if number + 1 in numbers else numbers.start
        taken[number] = labels
        numbered[labels] = number
    return numbered


@lru_cache(maxsize=65536)
def network_of(address: IPAddress) -> IPNetwork:
    """The network of one address alone."""
    return ip_network(address)


def cidr_labels(prefix: IPNetwork) -> Labels:
    """The labels of the addresses that `prefix` covers best: `cidr:10.0.0.0/8` and the world of its family."""
    world = Reserved.WORLD_IPV4 if prefix.version == 4 else Reserved.WORLD_IPV6
    return tuple(sorted((Label(CIDR, str(prefix)), Label(RESERVED, world.label))))


def workload_identity(workload: Workload) -> int:
    """The identity of a workload seen alone.

    `World` is the authority: should two label sets ever share a hash (about one chance in four thousand at a thousand
    label sets), it gives one of them the next number.
    """
    return hash_labels(workload_labels(workload.namespace, workload.labels), WORKLOAD_IDENTITIES)


def endpoint_of(workload: Workload, ifindex: int = 0, interface: str = "") -> Endpoint:
    """The endpoint of a workload with the addresses that its file gives; `ifindex` 0 when it is not on this node."""
    return Endpoint(workload, workload_identity(workload), workload.ips, ifindex, interface)
