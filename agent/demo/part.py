"""What a part of the demonstration is: pods, policies, and requests of one protocol. What is expected is never written
here: `policy explain` says it, and the real requests must agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, Protocol


class PartName(StrEnum):
    """The parts, as `lockgate demo --only` calls them."""

    HTTP = "http"
    GRPC = "grpc"
    KAFKA = "kafka"


@dataclass(frozen=True, slots=True)
class DemoPod:
    """One pod; without a `port` it has no server. `server` is the module that serves there."""

    name: str
    labels: Mapping[str, str] = field(hash=False)
    port: int = 0
    server: str = ""


class DemoRequest(Protocol):
    """One request from a pod to another, over IPv4 (`family` 4) or IPv6."""

    @property
    def client(self) -> str:
        """The pod that asks."""

    @property
    def server(self) -> str:
        """The pod that is asked."""

    @property
    def family(self) -> int:
        """4 or 6."""

    @property
    def program(self) -> str:
        """The module that asks: it reads what `order` gives, one JSON object a line, and writes what came of it."""

    def flow(self, address: str) -> dict[str, Any]:
        """The same request as a flow for `policy explain`."""

    def order(self, address: str, timeout: float) -> dict[str, Any]:
        """What the client in the pod is told; no connection within `timeout` seconds counts as dropped."""

    def passed(self, result: Mapping[str, Any]) -> bool:
        """True when the client's result says that the request got through to the pod."""

    def words(self, result: Mapping[str, Any]) -> str:
        """The client's result for the table."""


@dataclass(frozen=True, slots=True)
class Part:
    """Servers, clients and the policies of `policies/examples` that are between them."""

    name: PartName
    pods: tuple[DemoPod, ...]
    policies: tuple[str, ...]
    requests: tuple[DemoRequest, ...]
    needs: tuple[str, ...] = ()  # Python packages that only the demonstration uses

    @property
    def lacking(self) -> tuple[str, ...]:
        """Those of them that are not installed."""
        return tuple(name for name in self.needs if find_spec(name) is None)
