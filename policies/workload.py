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

    Exactly one of `netns` (a named network namespace), `pid`, `interface` (the host side of a veth) and `cgroup` says
    where the workload is; all None is a workload elsewhere, known by its `ips` only. Those of a control group
    (`cgroup`, a path below the root of the hierarchy) are processes of the node itself: they have its addresses, and to
    others they are the node.
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
    cgroup: str | None = None
    node: str = ""  # the remote node whose Envoy enforces its policies; empty: none, or this node

    @property
    def key(self) -> str:
        """namespace/name, unique on a node."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload that was found on this node (`ifindex` set) or is known by address only (`ifindex` 0).

    `ifindex` is the host side of its veth and serves as the endpoint's id: unique on the node, and the kernel has it
    at hand for every packet. For processes of the node it is a number that no interface has, of their control group.
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
    def of_node(self) -> bool:
        """True for processes of the node itself, whose peers see the node."""
        return self.workload.cgroup is not None

    @property
    def local(self) -> bool:
        """True when the node enforces this endpoint's policy."""
        return self.ifindex != 0
