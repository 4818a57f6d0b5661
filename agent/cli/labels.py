"""Labels as tables show them: what a workload's author wrote. The data of `-o json` has all."""

from __future__ import annotations

from collections.abc import Iterable

_DERIVED = ("k8s:io.cilium.k8s.policy.cluster=", "k8s:io.cilium.k8s.namespace.labels.")
_NAMESPACE = "k8s:io.kubernetes.pod.namespace="


def own_labels(labels: Iterable[str], namespace: bool = True) -> str:
    """Without those that follow from where the workload is; its namespace is said in words, or not at all."""
    own, where = [], ""
    for label in labels:
        if label.startswith(_NAMESPACE):
            where = f" in {label.removeprefix(_NAMESPACE)}"
        elif not label.startswith(_DERIVED):
            own.append(label)
    return (", ".join(own) or "-") + (where if namespace else "")
