"""One flow of an example's tests between two addresses, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass

from lockgate.agent.playground import Namespace
from lockgate.policies import HttpRequest, KafkaRequest, TlsRequest
from lockgate.policies.policy_test import Case
from lockgate.policies.workload import IPAddress


@dataclass(frozen=True, slots=True)
class Place:
    """An address and the namespace it belongs to. `name` is how its server calls itself."""

    name: str
    where: Namespace
    address: IPAddress


@dataclass(frozen=True, slots=True)
class Outcome:
    """`kind`: answered, connected (no request was to be made), denied (by Envoy), dropped, refused or closed."""

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One flow between two addresses, to a port of the server's. `called` is the address and port that the client asks
    for, when those are a service's."""

    case: Case
    client: Place
    server: Place
    port: int
    called: tuple[IPAddress, int] | None = None

    @property
    def target(self) -> tuple[str, int]:
        """What the client connects to."""
        address, port = self.called or (self.server.address, self.port)
        return str(address), port

    @property
    def encrypted(self) -> bool:
        """True when the client speaks TLS."""
        request = self.case.flow.request
        return isinstance(request, HttpRequest | TlsRequest) and request.encrypted

    @property
    def kafka(self) -> KafkaRequest | None:
        """The request of a Kafka client."""
        request = self.case.flow.request
        return request if isinstance(request, KafkaRequest) else None

    @property
    def server_name(self) -> str:
        """What a TLS client calls the server; empty when it does not."""
        request = self.case.flow.request
        return request.server_name if isinstance(request, HttpRequest | TlsRequest) else ""

    def __str__(self) -> str:
        return f"{self.case.name} ({self.client.address} -> {self.server.address} port {self.port})"
