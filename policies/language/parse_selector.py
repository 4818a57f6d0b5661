"""Reading label selectors, and what a policy's kind and namespace add to them."""

from __future__ import annotations

import re

from ..labels import (
    ANY,
    CIDR,
    CLUSTER,
    CLUSTER_LABEL,
    K8S,
    NAMESPACE_LABEL,
    NAMESPACE_LABELS_PREFIX,
    RESERVED,
    split_key,
    valid_key,
    valid_value,
)
from ..selector import Operator, Requirement, Selector
from .fields import Field, shorten

_SOURCES = (ANY, K8S)
_DOTTED_SOURCE = re.compile(r"(k8s(?=\.io\.(?:kubernetes|cilium)\.)|reserved)\.")  # most likely meant as a source


def parse_selector(field: Field, source: str = ANY, prefix: str = "") -> Selector | None:
    """A selector as written. Keys without a source get `source`, and `prefix` goes before each key."""
    fields = field.mapping(("matchLabels", "matchExpressions"))
    if fields is None:
        return None
    requirements: list[Requirement] = []
    if (labels := fields.get("matchLabels")) is not None:
        for key, value in (labels.mapping(None) or {}).items():
            text = value.text()
            named = _key(value, key, source, prefix)
            if text is not None and named is not None and _checked_value(value, text):
                requirements.append(Requirement(*named, Operator.IN, (text,)))
        _refuse_null_labels(labels)
    if (expressions := fields.get("matchExpressions")) is not None:
        for item in expressions.items():
            if (requirement := _expression(item, source, prefix)) is not None:
                requirements.append(requirement)
    return Selector.of(requirements)


def _refuse_null_labels(labels: Field) -> None:
    """A null label value is no absent field: dropping it would widen the selector."""
    for field in labels.null_fields():
        field.error("text expected, not nothing", 'write "" for the empty value')


def _key(field: Field, text: str, source: str, prefix: str) -> tuple[str, str] | None:
    """Source and key. Where the source is settled (Kubernetes' own selectors), a key has no other."""
    found, key = split_key(text, source) if source == ANY else (source, text)
    if found not in (RESERVED, CIDR) and not valid_key(key):
        others = ", prefix/name or source:name" if source == ANY else " or prefix/name"
        field.error(f"'{shorten(text)}' is not a label key", f"write name{others}")
        return None
    if source == ANY and (dotted := _DOTTED_SOURCE.match(text)):
        field.warn(
            f"'{shorten(text)}' is a label of that very name",
            f"write '{dotted[1]}:{shorten(text[dotted.end() :])}' for one of the source {dotted[1]}",
        )
    return found, prefix + key


def _checked_value(field: Field, text: str) -> bool:
    if valid_value(text):
        return True
    field.error(
        f"'{shorten(text)}' is not a label value",
        "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
    )
    return False


def _expression(field: Field, source: str, prefix: str) -> Requirement | None:
    fields = field.mapping(("key", "operator", "values"))
    if fields is None:
        return None
    for name in ("key", "operator"):
        if name not in fields:
            field.error(f"the expression has no {name}", "write key, operator and, for In and NotIn, values")
    if "key" not in fields or "operator" not in fields:
        return None
    text = fields["key"].text()
    named = _key(fields["key"], text, source, prefix) if text is not None else None
    operator = fields["operator"].choice(Operator, "operator")
    values: list[str] = []
    valid = True
    for item in fields["values"].items() if "values" in fields else ():
        value = item.text()
        if value is None or not _checked_value(item, value):
            valid = False
        else:
            values.append(value)
    if operator in (Operator.IN, Operator.NOT_IN) and valid and not values:
        field.error(f"{operator} needs values", "list at least one value, or use Exists or DoesNotExist")
        valid = False
    if operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST) and values:
        field.error(f"{operator} takes no values", "remove values, or use In or NotIn")
        valid = False
    if named is None or operator is None or not valid:
        return None
    return Requirement(*named, operator, tuple(sorted(set(values))))


def subject_selector(field: Field, namespace: str) -> Selector | None:
    """endpointSelector: a namespaced policy only ever selects endpoints of its own namespace (empty: clusterwide).

    Its namespace takes the place of another one that matchLabels names with its source. In whatever other way the
    selector asks for another, both must hold, which nobody does.
    """
    selector = parse_selector(field)
    if selector is None or not namespace:
        return selector
    written = [labels.peek().get(f"{K8S}:{NAMESPACE_LABEL}") for labels in field.at("matchLabels")]
    kept = []
    for item in selector.requirements:
        named = item.key == NAMESPACE_LABEL and item.source in _SOURCES and item.operator is Operator.IN
        if not named or (namespace in item.values and len(item.values) > 1):
            kept.append(item)
        elif item.values != (namespace,):
            replaced = item.source == K8S and item.values[0] in written
            whom = f"endpoints of its own namespace '{namespace}'" if replaced else "nobody"
            field.warn(
                f"the policy selects {whom}, not endpoints of '{', '.join(item.values)}'",
                "remove the namespace from the selector, or move the policy there",
            )
            if not replaced:
                kept.append(item)
    return Selector.of((*kept, Requirement(K8S, NAMESPACE_LABEL, Operator.IN, (namespace,))))


def peer_selector(field: Field, namespace: str) -> Selector | None:
    """An entry of fromEndpoints or toEndpoints, with the namespace and cluster that it inherits.

    In a clusterwide policy (`namespace` empty) a selector without a namespace means workloads of every namespace, and
    neither the world nor the host, which are in no cluster either: whatever it says of namespaces, it means workloads
    (https://docs.cilium.io/en/stable/network/clustermesh/policy/).
    """
    selector = parse_selector(field)
    if selector is None:
        return None
    items = selector.requirements
    if any(item.source == RESERVED for item in items):
        return selector
    added = []
    if not namespace:
        if not selector.names_key(NAMESPACE_LABEL):
            added.append(Requirement(K8S, NAMESPACE_LABEL, Operator.EXISTS))
    elif not any(_names_namespace(item) for item in items):
        added.append(Requirement(K8S, NAMESPACE_LABEL, Operator.IN, (namespace,)))
    if not selector.names_key(CLUSTER_LABEL):
        added.append(Requirement(K8S, CLUSTER_LABEL, Operator.IN, (CLUSTER,)))
    return Selector.of((*items, *added))


def _names_namespace(item: Requirement) -> bool:
    return item.source in _SOURCES and (item.key == NAMESPACE_LABEL or item.key.startswith(NAMESPACE_LABELS_PREFIX))
