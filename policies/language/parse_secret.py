"""Reading `kind: Secret` (https://kubernetes.io/docs/concepts/configuration/secret/). No problem quotes a value."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from types import MappingProxyType

from ..model import SecretRef
from ..secret import Secret
from .document import Mapping, Scalar
from .fields import Field
from .metadata import read_metadata, read_namespace

KIND = "Secret"
_FIELDS = ("apiVersion", "kind", "metadata", "type", "data", "stringData", "immutable")
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LOOKS_LIKE_ONE = re.compile(rb"kind[\"']?\s*:\s*[\"']?Secret\b")


def is_secret(field: Field) -> bool:
    """True when the document says that it is one."""
    return field.peek().get("kind") == KIND


def looks_like_secret(data: bytes) -> bool:
    """True when YAML that cannot be read seems to hold one, so that nothing of it should be quoted."""
    return _LOOKS_LIKE_ONE.search(data) is not None


def parse_secret(field: Field) -> tuple[SecretRef, Secret | None] | None:
    """The secret with its name; None when it cannot even be told which one it is."""
    before = field.findings.errors
    fields = field.mapping(_FIELDS)
    if fields is None:
        return None
    version = fields["apiVersion"].value if "apiVersion" in fields else None
    if version != "v1":
        fields.get("apiVersion", field).error("a Secret has apiVersion v1", "write apiVersion: v1")
    found = read_metadata(field, fields, "secret")
    if found is None or (namespace := read_namespace(found[0])) is None:
        return None
    ref = SecretRef(namespace, found[1])
    if "type" in fields:
        fields["type"].text()
    if "immutable" in fields and not isinstance(fields["immutable"].value, bool):
        fields["immutable"].error("true or false expected")
    # stringData wins over data, as in the API server.
    data = {key: value for name in ("data", "stringData") for key, value in _entries(fields, name).items()}
    secret = Secret(ref, MappingProxyType(data), field.findings.source, field.line)
    return ref, secret if field.findings.errors == before else None


def _entries(fields: dict[str, Field], name: str) -> dict[str, bytes]:
    if name not in fields:
        return {}
    if not isinstance(fields[name].node, Mapping):
        fields[name].error("a mapping of keys to texts expected")
        return {}
    found: dict[str, bytes] = {}
    for key, item in (fields[name].mapping(None) or {}).items():
        if not _KEY.fullmatch(key):
            item.error("a key may hold letters, digits, '-', '_' and '.' only")
        elif not isinstance(item.node, Scalar) or not isinstance(item.node.value, str):
            item.error("text expected", "quote the value")
        elif name == "stringData":
            found[key] = item.node.value.encode()
        elif (value := _decode(item.node.value)) is None:
            item.error("the value is not base64", "encode it, or write it plainly under stringData")
        else:
            found[key] = value
    return found


def _decode(text: str) -> bytes | None:
    try:
        return b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
