"""Objects of a cluster as documents: one line of JSON each, so that no line numbers are told of what has none."""

from __future__ import annotations

import json
import re
from typing import Any

from ..content import Document
from .resource import Object

SCHEME = "kubernetes:"
# YAML takes these only as escapes; others that JSON would escape (two halves of a character) it does not take so.
_ESCAPED = re.compile("[\x7f-\x9f\ufeff\ufffe\uffff\u2028\u2029]")


def source_of(kind: str, key: str) -> str:
    """`kubernetes:CiliumNetworkPolicy/default/shop`."""
    return f"{SCHEME}{kind}/{key}"


def write(content: Any) -> bytes:
    """JSON that is YAML as well."""
    text = json.dumps(content, ensure_ascii=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text).encode("utf-8", "replace")


def as_written(key: str, told: Object) -> Document:
    """A policy or a secret as its author wrote it, without what others noted on it."""
    metadata = {name: told["metadata"][name] for name in ("name", "namespace") if name in told["metadata"]}
    return Document(source_of(told["kind"], key), write({**told, "metadata": metadata}))


def secrets_named(told: Object) -> set[tuple[str, str]]:
    """Namespace and name of every secret that a policy names, wherever it may name one."""
    namespace = str(told["metadata"].get("namespace") or "") or "default"
    found: set[tuple[str, str]] = set()
    left: list[Any] = [told.get("spec"), told.get("specs")]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            secret = value.get("secret")
            if isinstance(secret, dict) and secret.get("name") and isinstance(secret["name"], str):
                where = secret.get("namespace")
                found.add((where if where and isinstance(where, str) else namespace, secret["name"]))
    return found
