"""Random label selectors. `meant` is a workload, some of whose labels the selector asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lockgate.tests.agreement.author import Author
from lockgate.tests.agreement.case import Document
from lockgate.tests.agreement.vocabulary import KEY_PREFIXES, LABELS, NAMESPACES

_NAMESPACE = "io.kubernetes.pod.namespace"
_NAMESPACE_NAME = "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"
_RESERVED = ("host", "world", "world-ipv4", "world-ipv6", "unmanaged", "health", "remote-node")


def selector(author: Author, meant: Document, prefixes: Sequence[str] = KEY_PREFIXES) -> Document:
    """matchLabels, matchExpressions, both or none. `prefixes` are sources to put before the keys."""
    if author.chance(25):
        return {}
    made: Document = {}
    if author.chance(75):
        labels = author.some(lambda: label(author, meant), 1, 2)
        made["matchLabels"] = {_key(author, key, prefixes): value for key, value in labels}
    if not made or author.chance(25):
        made["matchExpressions"] = author.some(lambda: _expression(author, meant, prefixes), 1, 2)
    return made


def plain_selector(author: Author, namespace: str) -> Document:
    """As Kubernetes knows them: no sources before the keys."""
    made = selector(author, author.workload(namespace), ("",))
    labels = {key: value for key, value in made.get("matchLabels", {}).items() if ":" not in key}
    expressions = [each for each in made.get("matchExpressions", ()) if ":" not in each["key"]]
    return {
        **({"matchLabels": labels} if labels else {}),
        **({"matchExpressions": expressions} if expressions else {}),
    }


def subject(author: Author, namespace: str) -> Document:
    """An endpointSelector; now and then it names a namespace, perhaps not the policy's own."""
    made = {} if author.chance(40) else selector(author, author.workload(namespace))
    if author.chance(10):
        made.setdefault("matchLabels", {})[_key(author, _NAMESPACE)] = author.pick(NAMESPACES)
    return made


def peer(author: Author, namespace: str) -> Document:
    """An entry of fromEndpoints or toEndpoints, with and without namespace, reserved labels or a cluster."""
    meant = author.workload(namespace)
    made = selector(author, meant)
    kind = author.number(0, 19)
    if kind < 6:  # otherwise the policy's own namespace is meant, or every one by a clusterwide policy
        key = _NAMESPACE_NAME if kind == 0 else _key(author, _NAMESPACE)
        made.setdefault("matchLabels", {})[key] = meant["namespace"] if author.chance(90) else "nowhere"
    elif kind < 8:
        _add_expression(author, made, _key(author, _NAMESPACE), (*NAMESPACES, "nowhere"))
    elif kind == 8:
        return {"matchLabels": {f"reserved:{author.pick(_RESERVED)}": ""}}
    elif kind == 9:
        key, operator = author.pick(("reserved:host", "reserved:world-ipv4")), author.pick(("Exists", "DoesNotExist"))
        made.setdefault("matchExpressions", []).append({"key": key, "operator": operator})
    elif kind == 10:
        cluster = author.pick(("default", "default", "other"))
        made.setdefault("matchLabels", {})["k8s:io.cilium.k8s.policy.cluster"] = cluster
    return made


def label(author: Author, meant: Document) -> tuple[str, str]:
    """One of the workload's labels; now and then another."""
    labels: dict[str, str] = meant["labels"]
    if labels and author.chance(85):
        return author.pick(tuple(labels.items()))
    key = author.pick(tuple(LABELS))
    return key, author.pick((*LABELS[key], "nobody"))


def _key(author: Author, key: str, prefixes: Sequence[str] = KEY_PREFIXES) -> str:
    return key if ":" in key else author.pick(prefixes) + key


def _expression(author: Author, meant: Document, prefixes: Sequence[str]) -> Document:
    key, value = label(author, meant)
    operator = author.pick(("In", "NotIn", "Exists", "DoesNotExist"))
    made: Document = {"key": _key(author, key, prefixes), "operator": operator}
    others = set(author.some(lambda: author.pick(LABELS[key]), 0, 2))
    if operator == "In":
        made["values"] = sorted({value, *others})
    elif operator == "NotIn":
        made["values"] = sorted(others - {value} or {"nobody"})
    return made


def _add_expression(author: Author, made: dict[str, Any], key: str, values: Sequence[str]) -> None:
    operator = author.pick(("Exists", "DoesNotExist", "In", "NotIn"))
    expression: Document = {"key": key, "operator": operator}
    if operator.endswith("In"):
        expression["values"] = [author.pick(values)]
    made.setdefault("matchExpressions", []).append(expression)
