"""The messages of both protocol variants, read from and written to bytes.

Only the fields that the protocol needs are read: Envoy's first request carries some five hundred extensions in its
node, which are skipped and not decoded.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/discovery/v3/discovery.proto
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from types import MappingProxyType
from typing import TypeAlias

from ..snapshot import Resource
from ..wire import any_of_type, around, fields, frame, string, submessage, text

_REQUEST = "DeltaDiscoveryRequest"
_WHOLE_REQUEST = "DiscoveryRequest"

# Of a Node what holds parts in an order that means nothing, by field number: user_agent_build_version, its metadata (a
# map: no two processes of one Envoy have it in the same order), and the extensions.
_Unordered: TypeAlias = Mapping[int, "_Unordered"]
_UNORDERED: _Unordered = {8: {2: {}}, 9: {}}


@dataclass(frozen=True, slots=True)
class Node:
    """Who asks: envoy.config.core.v3.Node, as far as it is needed."""

    id: str = ""
    cluster: str = ""
    message: bytes = field(default=b"", compare=False, repr=False)

    @property
    def build(self) -> str:
        """Equal for clients that say the same of themselves, in whatever order: version, extensions and all."""
        return sha256(repr(_said(self.message, _UNORDERED)).encode()).hexdigest()[:16]


def _said(message: bytes, unordered: _Unordered) -> list[str]:
    found = []
    for number, value in fields(message, "Node"):
        parts = unordered.get(number)
        found.append(f"{number} {value if parts is None or isinstance(value, int) else _said(value, parts)!r}")
    return sorted(found)


@dataclass(frozen=True, slots=True)
class DeltaRequest:
    """A subscription change, an ACK (`nonce`), a NACK (`nonce` and `error`), or several of them at once."""

    type_url: str
    node: Node | None = None  # guaranteed on the first request of a stream only
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    nonce: str = ""
    error: str | None = None  # the client's text; None is no NACK

    @classmethod
    def decode(cls, message: bytes) -> DeltaRequest:
        """Read it off the wire. Raises WireError."""
        type_url = nonce = ""
        node: Node | None = None
        error: str | None = None
        subscribe: list[str] = []
        unsubscribe: list[str] = []
        versions: dict[str, str] = {}
        for number, value in fields(message, _REQUEST):
            if number == 1:
                node = _node(submessage(value, _REQUEST))
            elif number == 2:
                type_url = string(value, _REQUEST)
            elif number == 3:
                subscribe.append(string(value, _REQUEST))
            elif number == 4:
                unsubscribe.append(string(value, _REQUEST))
            elif number == 5:
                name, version = _pair(submessage(value, _REQUEST))
                versions[name] = version
            elif number == 6:
                nonce = string(value, _REQUEST)
            elif number == 7:
                error = _status_text(submessage(value, _REQUEST))
        return cls(type_url, node, tuple(subscribe), tuple(unsubscribe), versions, nonce, error)


@dataclass(frozen=True, slots=True)
class DeltaResponse:
    """Resources that are new or changed, and names that are gone."""

    type_url: str
    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()
    system_version: str = ""  # for people who read a dump; no client looks at it

    def encode(self) -> bytes:
        """The message for the wire."""
        return b"".join(
            (
                text(1, self.system_version),
                *(part for each in self.resources for part in around(2, [each.head, each.body])),
                text(4, self.type_url),
                text(5, self.nonce),
                *(frame(6, name.encode()) for name in self.removed),
            )
        )


@dataclass(frozen=True, slots=True)
class WholeRequest:
    """State of the world: all names that the client wants, beside an ACK (`nonce`), a NACK (`nonce` and `error`) or
    alone (the nonce of an earlier answer)."""

    type_url: str
    node: Node | None = None  # guaranteed on the first request of a stream only
    names: tuple[str, ...] = ()
    nonce: str = ""
    error: str | None = None  # the client's text; None is no NACK
    version: str = ""  # of what it holds; whether it took a response is told by the nonce and the error instead

    @classmethod
    def decode(cls, message: bytes) -> WholeRequest:
        """Read it off the wire. Raises WireError."""
        type_url = nonce = version = ""
        node: Node | None = None
        error: str | None = None
        names: list[str] = []
        for number, value in fields(message, _WHOLE_REQUEST):
            if number == 1:
                version = string(value, _WHOLE_REQUEST)
            elif number == 2:
                node = _node(submessage(value, _WHOLE_REQUEST))
            elif number == 3:
                names.append(string(value, _WHOLE_REQUEST))
            elif number == 4:
                type_url = string(value, _WHOLE_REQUEST)
            elif number == 5:
                nonce = string(value, _WHOLE_REQUEST)
            elif number == 6:
                error = _status_text(submessage(value, _WHOLE_REQUEST))
        return cls(type_url, node, tuple(names), nonce, error, version)


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """State of the world: all resources of a type, or those that are new or changed."""

    type_url: str
    nonce: str
    version: str
    resources: tuple[Resource, ...] = ()

    def encode(self) -> bytes:
        """The message for the wire."""
        return b"".join(
            (
                text(1, self.version),
                *(frame(2, any_of_type(resource.type_url, resource.body)) for resource in self.resources),
                text(4, self.type_url),
                text(5, self.nonce),
            )
        )


def _node(message: bytes) -> Node:
    node_id = cluster = ""
    for number, value in fields(message, "Node"):
        if number == 1:
            node_id = string(value, "Node")
        elif number == 2:
            cluster = string(value, "Node")
    return Node(node_id, cluster, message)


def _pair(entry: bytes) -> tuple[str, str]:
    key = value = ""
    for number, found in fields(entry, _REQUEST):
        if number == 1:
            key = string(found, _REQUEST)
        elif number == 2:
            value = string(found, _REQUEST)
    return key, value


def _status_text(status: bytes) -> str:
    """google.rpc.Status: the message, or the code where there is none."""
    code, message = 0, ""
    for number, value in fields(status, "Status"):
        if number == 1 and isinstance(value, int):
            code = value
        elif number == 2:
            message = string(value, "Status")
    return message or f"status code {code} without a text"
