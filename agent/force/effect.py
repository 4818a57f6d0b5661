"""Effect, not only ACK: what Envoy says it enforces beside what it acknowledged. Pure.

An ACK says that a client took a resource, not that it works by it. Envoy's own dump of its configuration tells the
version of each resource in force; where that is another one than the client confirmed, it has drifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ...envoy.inspection.in_force import InForce
from ...xds import ClientStatus
from ..refusal.whose import envoy_of


class Name(NamedTuple):
    """A resource of one node."""

    type_url: str
    name: str

    @property
    def kind(self) -> str:
        """The short name of the type: Listener."""
        return self.type_url.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class Drift:
    """A resource of which Envoy confirmed one version and has another (None: none) in force. `node` is the remote node
    that it is of."""

    resource: Name
    confirmed: str
    actual: str | None
    error: str = ""  # Envoy's, when its dump gives one
    node: str = ""

    def __str__(self) -> str:
        actual = f"version {self.actual}" if self.actual else "none"
        error = f" ({self.error})" if self.error else ""
        return (
            f"{envoy_of(self.node)} confirmed version {self.confirmed} of {self.resource.kind} {self.resource.name}, "
            f"but has {actual} in force{error}; it is sent again"
        )


def confirmed(client: ClientStatus) -> dict[Name, str]:
    """The versions that a client confirmed."""
    return {
        Name(entry.type_url, resource.name): resource.held
        for entry in client.types
        for resource in entry.resources
        if resource.held is not None
    }


def drifted(
    wanted: Mapping[Name, str], actual: Mapping[Name, InForce], asked: Iterable[str], node: str = ""
) -> tuple[Drift, ...]:
    """The resources of the `asked` types that are not in force as they were confirmed, by name."""
    types = frozenset(asked)
    found = []
    for resource, version in sorted(wanted.items()):
        if resource.type_url in types:
            now = actual.get(resource, InForce(None))
            if now.version != version:
                found.append(Drift(resource, version, now.version, now.error, node))
    return tuple(found)
