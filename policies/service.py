"""Services as the workloads file lists them: whom toServices means, and addresses that lead to backends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from .endpoint_policy import Protocol
from .labels import workload_labels
from .selector import Operator, Requirement, Selector
from .workload import IPAddress

MAX_WEIGHT = 10_000


class HealthKind(StrEnum):
    """How a backend shows that it serves: it accepts a connection, or answers a GET with 200 to 399."""

    TCP = "tcp"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """How each backend is asked. Times in seconds; `rise` and `fall` answers in a row change what it counts as."""

    kind: HealthKind = HealthKind.TCP
    path: str = "/"  # of HTTP
    port: int | None = None  # None: the backend's own
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of the service's addresses and the backends' port, which may be one of their named ports."""

    port: int
    target: int | str
    protocol: Protocol = Protocol.TCP
    name: str = ""


@dataclass(frozen=True, slots=True)
class BackendGroup:
    """Backends of one weight each: the workloads that `selector` selects, or one address with a port of its own (None:
    the service port's target)."""

    selector: tuple[tuple[str, str], ...] = ()
    ip: IPAddress | None = None
    port: int | None = None
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Frontend:
    """A service's address with one of its ports."""

    ip: IPAddress
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{_with_port(self.ip, self.port)}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Backend:
    """One of those who serve: a workload's address, or another."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return _with_port(self.ip, self.port)


def _with_port(ip: IPAddress, port: int) -> str:
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"


@dataclass(frozen=True, slots=True)
class Service:
    """A service: the workloads of its namespace that `selector` selects, and the addresses outside in `ips`.

    `labels` and `selector` are sorted (key, value) pairs; an empty selector selects nobody. With `vips` it has
    addresses of its own, which lead to all of these and to those in `backends`, whose weights count before the usual 1.
    """

    name: str
    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    selector: tuple[tuple[str, str], ...] = ()
    ips: tuple[IPAddress, ...] = ()
    source: str = ""
    line: int = 0
    vips: tuple[IPAddress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    backends: tuple[BackendGroup, ...] = ()
    health: HealthCheck | None = None

    @property
    def key(self) -> str:
        """namespace/name."""
        return f"{self.namespace}/{self.name}"

    @property
    def groups(self) -> tuple[BackendGroup, ...]:
        """All who serve; where one is in several groups the first counts."""
        usual = (BackendGroup(self.selector),) if self.selector else ()
        return (*self.backends, *usual, *(BackendGroup(ip=ip) for ip in self.ips))

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """All that are listed one by one."""
        return (*self.ips, *(group.ip for group in self.backends if group.ip is not None))

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """Of the workloads that serve, each within the service's namespace."""
        return tuple(selector_of(self.namespace, group.selector) for group in self.groups if group.selector)


def selector_of(namespace: str, labels: tuple[tuple[str, str], ...]) -> Selector:
    """The workloads of a namespace that have these labels."""
    wanted = workload_labels(namespace, labels)
    return Selector(tuple(Requirement(source, key, Operator.IN, (value,)) for source, key, value in wanted))
