"""Labels: `source:key=value`, as identities carry them.

https://docs.cilium.io/en/stable/gettingstarted/terminology/#labels
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

ANY = "any"  # in a selector: a label of whatever source
K8S = "k8s"
RESERVED = "reserved"
CIDR = "cidr"
FQDN = "fqdn"

NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_PREFIX = "io.cilium.k8s.namespace.labels."
NAMESPACE_NAME_LABEL = NAMESPACE_LABELS_PREFIX + "kubernetes.io/metadata.name"
CLUSTER_LABEL = "io.cilium.k8s.policy.cluster"
CLUSTER = "default"

# Text before a colon is a source only when it is one of these; no other key has a colon in it.
SOURCES = frozenset({ANY, K8S, RESERVED, CIDR, FQDN, "cni", "container", "containerd", "mesos", "node", "unspec"})

_KEY = re.compile(r"(?:[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_MAX_KEY = 317  # a DNS subdomain, a slash and 63 characters


class Label(NamedTuple):
    """One label of an identity. Sorts by source, then key, then value."""

    source: str
    key: str
    value: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"


Labels: TypeAlias = tuple[Label, ...]  # sorted, without duplicates


def split_key(text: str, default: str) -> tuple[str, str]:
    """`k8s:app` as ("k8s", "app"); a key without a known source gets `default`."""
    source, colon, key = text.partition(":")
    return (source, key) if colon and source in SOURCES else (default, text)


def valid_key(key: str) -> bool:
    """True for a Kubernetes label key (https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/)."""
    return len(key) <= _MAX_KEY and _KEY.fullmatch(key) is not None


def valid_value(value: str) -> bool:
    """True for a Kubernetes label value: at most 63 characters of `[-A-Za-z0-9_.]`, alphanumeric at both ends."""
    return _VALUE.fullmatch(value) is not None


def valid_labels(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those that are labels of Kubernetes' kind, which policies can name."""
    return {key: value for key, value in labels if valid_key(key) and valid_value(value)}


def workload_labels(namespace: str, labels: Iterable[tuple[str, str]]) -> Labels:
    """A workload's labels as its identity carries them: sources added, with the implicit namespace and cluster labels.

    The implicit ones win over what the workload says, so that nobody can claim another namespace.
    """
    found = {split_key(key, K8S): value for key, value in labels}
    found[K8S, NAMESPACE_LABEL] = namespace
    found[K8S, NAMESPACE_NAME_LABEL] = namespace
    found[K8S, CLUSTER_LABEL] = CLUSTER
    return tuple(sorted(Label(source, key, value) for (source, key), value in found.items()))
