"""Service addresses of a world: which there are, and who serves behind each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from .identity import IPNetwork, network_of
from .labels import workload_labels
from .service import Backend, BackendGroup, Frontend, Service, ServicePort, selector_of
from .workload import Endpoint, IPAddress

NOBODY = 0  # the identity of a service's own address: whoever sends a packet there was not given a backend


@dataclass(frozen=True, slots=True)
class Answering:
    """One port of a service's address: the service, and its backends with their weights (0: nothing new)."""

    service: Service
    port: ServicePort
    backends: Mapping[Backend, int]


@dataclass(frozen=True, slots=True)
class Frontends:
    """All of them. `vips` are all addresses of services, `problems` sentences about those that cannot be served."""

    answering: Mapping[Frontend, Answering] = field(default_factory=lambda: MappingProxyType({}))
    vips: Mapping[IPAddress, Service] = field(default_factory=lambda: MappingProxyType({}))
    problems: tuple[str, ...] = ()


def frontends_of(
    services: Iterable[Service], endpoints: Iterable[Endpoint], owned: Mapping[IPNetwork, str]
) -> Frontends:
    """What the services of these endpoints answer to. `owned` are addresses that are somebody's, and whose: no service
    gets them. An address with a port belongs to the service that is listed first."""
    endpoints = tuple(endpoints)
    answering: dict[Frontend, Answering] = {}
    vips: dict[IPAddress, Service] = {}
    problems: list[str] = []
    for service in services:
        for vip in service.vips:
            if (owner := owned.get(network_of(vip))) is not None:
                problems.append(
                    f"service {service.key}: {vip} is an address of {owner}, so it cannot be the service's; "
                    "choose one that nobody has"
                )
                continue
            vips.setdefault(vip, service)
            for port in service.ports:
                frontend = Frontend(vip, port.port, port.protocol)
                if frontend in answering:
                    first = answering[frontend].service.key
                    problems.append(
                        f"service {service.key}: {frontend} already is the address of service {first}; "
                        "it stays with the first: correct one of them"
                    )
                    continue
                answering[frontend] = Answering(service, port, backends_of(service, port, vip.version, endpoints))
    return Frontends(MappingProxyType(answering), MappingProxyType(vips), tuple(problems))


def backends_of(service: Service, port: ServicePort, version: int, endpoints: Iterable[Endpoint]) -> dict[Backend, int]:
    """Who serves a port to clients of one IP version, with their weights. Workloads without the named port do not."""
    found: dict[Backend, int] = {}
    here = [endpoint for endpoint in endpoints if endpoint.workload.namespace == service.namespace]
    for group in service.groups:
        for backend in _members(group, service, port, here):
            if backend.ip.version == version:
                found.setdefault(backend, group.weight)
    return found


def _members(
    group: BackendGroup, service: Service, port: ServicePort, endpoints: Iterable[Endpoint]
) -> Iterable[Backend]:
    if group.ip is not None:
        number = group.port if group.port is not None else port.target
        if isinstance(number, int):
            yield Backend(group.ip, number)
        return
    selector = selector_of(service.namespace, group.selector)
    for endpoint in endpoints:
        workload = endpoint.workload
        if not selector.matches(workload_labels(workload.namespace, workload.labels)):
            continue
        target = port.target if isinstance(port.target, int) else workload.ports.get(port.target)
        if target is not None:
            yield from (Backend(ip, target) for ip in endpoint.ips)
