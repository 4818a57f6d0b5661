"""Workloads as the user lists them, and endpoints as the node sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address

_NO_PORTS: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Workload:
    """One entry of the workloads file (architecture: public surface).

    Exactly one of `netns` (a named network namespace), `pid` and `interface` (the host side of a veth) says where the
    workload is; all three None is a workload elsewhere, known by its `ips` only.
    """

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...]  # sorted (key, value) as written, without the implicit ones
    netns: str | None = None
    pid: int | None = None
    interface: str | None = None
    ips: tuple[IPAddress, ...] = ()
    ports: Mapping[str, int] = field(default_factory=lambda: _NO_PORTS, hash=False)  # named ports
    source: str = ""
    line: int = 0
    born: int | None = None  # when the process `pid` started, in clock ticks since boot: tells it from a later one
    node: str = ""  # the remote node whose Envoy enforces its policies; empty: none, or this node

    @property
    def key(self) -> str:
        """namespace/name, unique on a node."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload that was found on this node (`ifindex` set) or is known by address only (`ifindex` 0).

    `ifindex` is the host side of its veth and serves as the endpoint's id: unique on the node, and the kernel has it
    at hand for every packet.
    """

    workload: Workload
    identity: int
    ips: tuple[IPAddress, ...]
    ifindex: int = 0
    interface: str = ""

    @property
    def key(self) -> str:
        """namespace/name."""
        return self.workload.key

    @property
    def local(self) -> bool:
        """True when the node enforces this endpoint's policy."""
        return self.ifindex != 0
