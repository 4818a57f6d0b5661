"""What one node's Envoy made of resources, over all its streams: what it refused, and what it last accepted.

A refused version is never offered again to the same node; in its place stands the last version that the node accepted,
so that an Envoy that starts afresh while a bad policy is published still gets the good one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from ..snapshot import Resource

MOST_REJECTIONS = 4096  # remembered per type; the oldest go first
MOST_ACCEPTED = 100_000  # likewise

WholeState: TypeAlias = tuple[str, tuple[Resource, ...]]  # everything of one type that a client has, behind its version


@dataclass(slots=True)
class TypeMemory:
    """The memory of one node for one resource type."""

    _rejected: dict[tuple[str, str], str] = field(default_factory=dict)  # (name, version) -> the client's text
    _suspect: set[tuple[str, str]] = field(default_factory=set)
    _accepted: dict[str, Resource] = field(default_factory=dict)
    _gone: dict[str, None] = field(default_factory=dict)  # names; the oldest first
    _refused_last: set[str] = field(default_factory=set)
    refusals: int = 0  # ever; only grows
    acceptances: int = 0  # of other versions than the ones before; only grows
    # State of the world: all that the client has once it takes what was sent last, and all that it had when it
    # confirmed something last. A client that comes back has one of the two.
    offered: WholeState = ("", ())
    confirmed: WholeState = ("", ())

    def accept(self, resource: Resource) -> None:
        """The client holds this version."""
        before = self._accepted.get(resource.name)
        self.acceptances += before is None or before.version != resource.version
        self._accepted[resource.name] = resource
        self._gone.pop(resource.name, None)
        if len(self._accepted) > MOST_ACCEPTED:
            del self._accepted[next(iter(self._accepted))]
        self._suspect.discard((resource.name, resource.version))
        self._refused_last.discard(resource.name)

    def reject(self, resources: Iterable[Resource], error: str) -> None:
        """The client refused one response. Of several resources in it any may be the bad one: each becomes a suspect,
        which is offered once more, alone."""
        refused = list(resources)
        if len(refused) > 1:
            self._suspect.update((resource.name, resource.version) for resource in refused)
            return
        for resource in refused:
            self._suspect.discard((resource.name, resource.version))
            self._rejected[resource.name, resource.version] = error
            self.refusals += 1
            self._refused_last.add(resource.name)
            if (good := self._accepted.get(resource.name)) is not None and good.version == resource.version:
                self.remove(resource.name)  # another Envoy is in the place of the one that took it
            while len(self._rejected) > MOST_REJECTIONS:
                del self._rejected[next(iter(self._rejected))]

    def forgive(self) -> None:
        """Whatever it refused may be offered again."""
        self._rejected.clear()
        self._suspect.clear()

    def remove(self, name: str) -> None:
        """The client holds it no more."""
        if self._accepted.pop(name, None) is not None:
            self._gone[name] = None
            if len(self._gone) > MOST_ACCEPTED:
                del self._gone[next(iter(self._gone))]

    def is_gone(self, name: str) -> bool:
        """True when it once accepted this name and holds it no more."""
        return name in self._gone

    def accepted(self, name: str) -> Resource | None:
        """The version that it accepted last."""
        return self._accepted.get(name)

    @property
    def refused_last(self) -> Set[str]:
        """Names of which the client refused what it was told last."""
        return self._refused_last

    def refused_names(self) -> frozenset[str]:
        """Names of which it refused some version."""
        return frozenset(name for name, _ in self._rejected)

    def rejection(self, resource: Resource) -> str | None:
        """The client's text when it refused exactly this version."""
        return self._rejected.get((resource.name, resource.version))

    def is_suspect(self, resource: Resource) -> bool:
        """True when it must travel alone, so that a NACK can mean nothing else."""
        return (resource.name, resource.version) in self._suspect

    def offer(self, resource: Resource | None) -> Resource | None:
        """What to offer in place of the published resource: itself, the last accepted one when it was refused, or None
        when there is nothing that the client would take."""
        if resource is None or self.rejection(resource) is None:
            return resource
        return self._accepted.get(resource.name)


NodeKey: TypeAlias = tuple[str | None, str]  # the node of the certificate (None on the socket), and the one it says


@dataclass(slots=True)
class NodeMemory:
    """The memory of one node, by type URL."""

    _types: dict[str, TypeMemory] = field(default_factory=dict)
    _build: str = ""  # of the client that came last

    @property
    def types(self) -> Mapping[str, TypeMemory]:
        """Those of which there is any memory, by type URL."""
        return MappingProxyType(self._types)

    @property
    def refusals(self) -> int:
        """How many there ever were."""
        return sum(memory.refusals for memory in self._types.values())

    @property
    def acceptances(self) -> int:
        """How often it took another version of something."""
        return sum(memory.acceptances for memory in self._types.values())

    def meet(self, build: str) -> None:
        """A client comes. Of one of another build (discovery.Node) it is not known what it refuses."""
        if self._build not in ("", build):
            for memory in self._types.values():
                memory.forgive()
        self._build = build

    def of_type(self, type_url: str) -> TypeMemory:
        """The memory for one resource type."""
        return self._types.setdefault(type_url, TypeMemory())


class NodeMemories:
    """The memories of all nodes. On the socket a client may call itself anything, so of those no more than `most` are
    kept; who is connected is not forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._memories: dict[NodeKey, NodeMemory] = {}

    def of(self, key: NodeKey, connected: Set[NodeKey] = frozenset()) -> NodeMemory:
        """The memory of a node, as an empty one when there is none."""
        memory = self._memories.pop(key, None) or NodeMemory()
        self._memories[key] = memory  # behind the others: the one that was seen last
        local = [each for each in self._memories if each[0] is None and each != key and each not in connected]
        for each in local[: max(0, sum(known[0] is None for known in self._memories) - self._most)]:
            del self._memories[each]
        return memory

    def __len__(self) -> int:
        return len(self._memories)
