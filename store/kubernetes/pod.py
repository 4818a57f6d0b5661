"""Pods as workloads: those of this node by a process, those of other nodes by their addresses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...policies.labels import NAMESPACE_LABELS_PREFIX, valid_labels
from ..content import Document
from .document import source_of, write
from .pod_process import PodProcess
from .resource import Object

_CILIUM_PREFIX = "io.cilium.k8s."
_ACCOUNT_LABEL = "io.cilium.k8s.policy.serviceaccount"
# Labels that the reference does not count (https://docs.cilium.io/en/stable/operations/performance/scalability/
# identity-relevant-labels/): replicas would have an identity each. What begins like an implicit label nobody may claim.
_LEFT_OUT = (
    _CILIUM_PREFIX,
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "beta.kubernetes.io",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "annotation",
    "controller-uid",
    "etcd_node",
)
_OVER = frozenset({"Succeeded", "Failed"})
_NO_LABELS: Mapping[str, str] = {}


@dataclass(slots=True)
class Pods:
    """Documents of pods. One that nothing changed for is the same object as before."""

    documents: list[Document] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _made: dict[str, tuple[tuple[Any, ...], Document]] = field(default_factory=dict)

    def update(
        self,
        pods: Mapping[str, Object],
        namespaces: Mapping[str, Object],
        node: str,
        processes: Mapping[str, PodProcess],
    ) -> None:
        """Of these pods, by namespace/name. `processes` are those found on this node, by the pods' uids."""
        self.documents, self.problems = [], []
        before, self._made = self._made, {}
        owners = _owners(pods)
        for key, pod in sorted(pods.items()):
            if not networked(pod):
                continue
            process = processes.get(uid_of(pod)) if pod["node"] == node else None
            if pod["node"] == node and process is None and pod["phase"] == "Running":
                self.problems.append(
                    f"{source_of('Pod', key)}: it runs on this node and no process with a network of its own was found "
                    "for it, so nothing is enforced for it; the agent must see the node's processes (hostPID: true)"
                )
            ips = tuple(ip for ip in pod["ips"] if owners[ip] == key)
            if process is None and not ips:
                continue
            space = namespaces.get(pod["metadata"]["namespace"])
            made_of = (pod, space, process, ips)
            known = before.get(key)
            if known is None or not all(new is old or new == old for new, old in zip(made_of, known[0], strict=True)):
                known = made_of, Document(source_of("Pod", key), write({"workloads": [_entry(*made_of)]}))
            self._made[key] = known
            self.documents.append(known[1])


def networked(pod: Object) -> bool:
    """False for a pod that uses its node's network, and for one whose addresses may be another's by now."""
    return not pod["hostNetwork"] and pod["phase"] not in _OVER


def uid_of(pod: Object) -> str:
    """By which its processes are found."""
    return str(pod["metadata"].get("config") or pod["metadata"].get("uid") or "")


def labels_of(pod: Object, namespace: Object | None) -> dict[str, str]:
    """The labels of a pod that policies can name, its service account and the labels of its namespace among them."""
    metadata = pod["metadata"]
    found = {key: value for key, value in (metadata.get("labels") or {}).items() if not key.startswith(_LEFT_OUT)}
    of_space = namespace["metadata"].get("labels") or {} if namespace is not None else _NO_LABELS
    found |= {NAMESPACE_LABELS_PREFIX + key: value for key, value in of_space.items()}
    if pod["account"]:
        found[_ACCOUNT_LABEL] = pod["account"]
    return valid_labels(found.items())


def _owners(pods: Mapping[str, Object]) -> dict[str, str]:
    """Who has each address: of several the youngest, for the others are about to be told of as ended."""
    found: dict[str, tuple[str, str]] = {}
    for key, pod in pods.items():
        if networked(pod):
            claim = (str(pod["metadata"].get("created") or ""), key)
            for ip in pod["ips"]:
                found[ip] = max(claim, found.get(ip, claim))
    return {ip: key for ip, (_, key) in found.items()}


def _entry(pod: Object, namespace: Object | None, process: PodProcess | None, ips: Iterable[str]) -> dict[str, Any]:
    metadata = pod["metadata"]
    entry: dict[str, Any] = {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "labels": labels_of(pod, namespace),
    }
    if process is not None:
        entry |= {"pid": process.pid, "born": process.born}
    if listed := list(dict.fromkeys(ips)):
        entry["ips"] = listed
    if pod["ports"]:
        # The first of two ports with one name counts.
        entry["ports"] = dict(reversed(pod["ports"]))
    return entry
