"""`metadata` of a Kubernetes object, as far as it says which object it is."""

from __future__ import annotations

import re

from .fields import Field, shorten

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/
_FIELDS = (
    "name",
    "namespace",
    "labels",
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_ELSEWHERE = {"description": "write it in the spec, or among the annotations"}
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
DEFAULT_NAMESPACE = "default"


def read_metadata(field: Field, fields: dict[str, Field], what: str) -> tuple[dict[str, Field], str] | None:
    """The fields of the object's `metadata` and its name; None, with a problem, when it has none. `what` is how a
    problem calls the object: policy, secret."""
    metadata = fields["metadata"].mapping(_FIELDS, _ELSEWHERE) if "metadata" in fields else {}
    if metadata is None:
        return None
    name = metadata["name"].text() if "name" in metadata else ""
    if not name:
        if name is not None:
            fields.get("metadata", field).error(f"the {what} has no name", "write metadata: {name: ...}")
        return None
    if not _NAME.fullmatch(name):
        metadata["name"].error(f"'{shorten(name)}' is not a name", "use lower-case letters, digits, '-' and '.'")
        return None
    for holder in ("labels", "annotations"):
        if holder in metadata:
            metadata[holder].mapping(None)
    return metadata, name


def read_namespace(metadata: dict[str, Field]) -> str | None:
    """The namespace, `default` where none is written; None, with a problem, when it is not one."""
    namespace = metadata["namespace"].text() if "namespace" in metadata else DEFAULT_NAMESPACE
    if namespace is None:
        return None
    if not _NAMESPACE.fullmatch(namespace):
        metadata["namespace"].error(
            f"'{shorten(namespace)}' is not a namespace", "use lower-case letters, digits and '-'"
        )
        return None
    return namespace
