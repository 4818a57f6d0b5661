"""What a store holds: the documents of a node, as bytes, and the interface every kind of store has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """One file (or one key of a remote store). `failure` says why the bytes could not be had; `data` is then empty."""

    source: str
    data: bytes
    failure: str = ""


@dataclass(frozen=True, slots=True)
class ContainerNetwork:
    """A network of a container engine on a Linux bridge: the bridge's name, and the prefixes of its containers."""

    name: str
    bridge: str
    subnets: tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """Where this node's pods are: the prefixes of their addresses, those of them in which no pod of another node is,
    and what somebody has said that the names of their interfaces begin with."""

    prefixes: tuple[IPv4Network | IPv6Network, ...]
    own: tuple[IPv4Network | IPv6Network, ...] = ()
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StoreContent:
    """Everything at one moment, each tuple sorted by source within one store. A document that did not change is the
    same object as in the content before, so that readers can keep what they made of it."""

    policies: tuple[Document, ...]
    workloads: tuple[Document, ...]
    problems: tuple[str, ...] = ()  # what could not be listed at all, one sentence each; the last known content stays
    networks: tuple[ContainerNetwork, ...] = ()  # whose containers are all workloads: who is none is to be cut off
    pods: PodNetwork | None = None  # likewise, of Kubernetes


class Store(Protocol):
    """Where policies and workloads come from."""

    async def read(self) -> StoreContent:
        """The content now.

        Raises:
            StoreError: nothing can be read at all (at start-up; later contents carry `problems` instead).
        """
        ...

    def changes(self) -> AsyncIterator[StoreContent]:
        """The content after each change, coalesced; ends only when it is cancelled. Call `read` first."""
        ...
