"""What the server offers: resources by type and name, each with a version that is its content's hash.

Equal content has an equal version on every server and after every restart, so a client that comes back with what it
holds is sent nothing it already has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType

from .serve.reference import Reference, addresses, references
from .type_url import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET
from .wire import around, text

_NOTHING: Mapping[str, Resource] = MappingProxyType({})


@dataclass(frozen=True)
class Resource:
    """One named resource: `body` is the serialised message of the type `type_url`."""

    type_url: str
    name: str
    body: bytes = field(repr=False)
    version: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "version", sha256(self.body).hexdigest()[:16])

    @cached_property
    def head(self) -> bytes:
        """What comes before `body` in the envoy.service.discovery.v3.Resource message, which is the two together: made
        once, sent to every client."""
        any_of = [text(1, self.type_url), *around(2, [self.body])]
        *head, _ = [text(3, self.name), text(1, self.version), *around(2, any_of)]
        return b"".join(head)

    @cached_property
    def references(self) -> frozenset[Reference]:
        """What it names of other resources."""
        return references(self.type_url, self.body)

    @cached_property
    def addresses(self) -> frozenset[bytes]:
        """Where it listens, if it is a listener."""
        return addresses(self.body) if self.type_url == LISTENER else frozenset()


@dataclass(frozen=True)
class Snapshot:
    """All resources of one moment: type URL -> name -> resource. Immutable; equal when every version is equal."""

    types: Mapping[str, Mapping[str, Resource]] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, resources: Iterable[Resource]) -> Snapshot:
        """Gather resources; of two with the same type and name the later one stays."""
        types: dict[str, dict[str, Resource]] = {}
        for resource in resources:
            types.setdefault(resource.type_url, {})[resource.name] = resource
        return cls(MappingProxyType({type_url: MappingProxyType(named) for type_url, named in types.items()}))

    def joined(self, resources: Iterable[Resource]) -> Snapshot:
        """This snapshot with more resources."""
        return Snapshot.of((*(each for named in self.types.values() for each in named.values()), *resources))

    def of_type(self, type_url: str) -> Mapping[str, Resource]:
        """The resources of one type by name; empty when there are none."""
        return self.types.get(type_url, _NOTHING)

    @cached_property
    def references(self) -> frozenset[Reference]:
        """Everything that any of them names."""
        return frozenset().union(*(each.references for named in self.types.values() for each in named.values()))


__all__ = ["CLUSTER", "ENDPOINTS", "FILTER_CONFIG", "LISTENER", "ROUTE", "SECRET", "Resource", "Snapshot"]
