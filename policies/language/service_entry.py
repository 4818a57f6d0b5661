"""One entry of `services:` in a workloads file."""

from __future__ import annotations

import re

from ..endpoint_policy import LAST_PORT, Protocol
from ..service import MAX_WEIGHT, BackendGroup, HealthCheck, HealthKind, Service, ServicePort
from ..workload import IPAddress
from .entry_fields import PORT_NAME, read_address, read_addresses, read_labels
from .fields import Field, shorten

SERVICE_FIELDS = ("name", "namespace", "labels", "selector", "ips", "vips", "ports", "backends", "health")
_PORT_FIELDS = ("name", "port", "targetPort", "protocol")
_BACKEND_FIELDS = ("selector", "ip", "port", "weight")
_HEALTH_FIELDS = ("http", "tcp", "port", "interval", "timeout", "rise", "fall")
_PATH = re.compile(r"/[!-~]*")
_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP}
_LONGEST = 3600  # seconds


def read_service(item: Field, fields: dict[str, Field], name: str, namespace: str) -> Service:
    """The service of an entry whose fields are open; what is wrong goes to the findings."""
    for extra in ("ports", "backends", "health"):
        if extra in fields and "vips" not in fields:
            fields[extra].error(f"the service has {extra} and no vips", "give it vips, addresses of its own")
    if "vips" in fields and "ports" not in fields:
        item.error("the service has vips and no ports", "write ports: [{port: 80}]")
    ports = _ports(fields["ports"]) if "ports" in fields else ()
    ips = read_addresses(fields["ips"]) if "ips" in fields else ()
    if ips and any(isinstance(port.target, str) for port in ports):
        fields["ips"].error(
            "an address has no named ports", "write it in backends, with its port: [{ip: 192.0.2.1, port: 8080}]"
        )
    return Service(
        name,
        namespace,
        read_labels(fields["labels"]) if "labels" in fields else (),
        read_labels(fields["selector"]) if "selector" in fields else (),
        ips,
        item.findings.source,
        item.line,
        _vips(fields["vips"]) if "vips" in fields else (),
        ports,
        tuple(_backends(fields["backends"], ports)) if "backends" in fields else (),
        _health(fields["health"], ports) if "health" in fields else None,
    )


def _vips(field: Field) -> tuple[IPAddress, ...]:
    found = read_addresses(field)
    for address in found:
        mapped = address.version == 6 and address.ipv4_mapped is not None
        if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local or mapped:
            field.error(f"{address} cannot be a service's address", "choose one that is routed and that nobody has")
    return found


def _ports(field: Field) -> tuple[ServicePort, ...]:
    found: list[ServicePort] = []
    for item in field.items():
        fields = item.mapping(_PORT_FIELDS)
        if fields is None:
            continue
        number = fields["port"].integer(1, LAST_PORT) if "port" in fields else None
        if "port" not in fields:
            item.error("the entry has no port", "write port: and a number")
        if number is None:
            continue
        protocol = _protocol(fields["protocol"]) if "protocol" in fields else Protocol.TCP
        target = _target(fields["targetPort"]) if "targetPort" in fields else number
        name = fields["name"].text() if "name" in fields else ""
        if target is None or name is None or protocol is None:
            continue
        if name and not PORT_NAME.fullmatch(name):
            fields["name"].error(
                f"'{shorten(name)}' is not a port name", "use at most 15 letters, digits and single '-'"
            )
        if any((each.port, each.protocol) == (number, protocol) for each in found):
            item.error(f"{number}/{protocol} is listed twice", "remove one of the two")
        found.append(ServicePort(number, target, protocol, name))
    return tuple(found)


def _protocol(field: Field) -> Protocol | None:
    text = field.text()
    if text is not None and text not in _PROTOCOLS:
        field.error(f"a service's address has no protocol '{shorten(text)}'", "use TCP or UDP")
    return _PROTOCOLS.get(text or "")


def _target(field: Field) -> int | str | None:
    if not isinstance(field.value, str):
        return field.integer(1, LAST_PORT)
    name = field.value.lower()
    if PORT_NAME.fullmatch(name):
        return name
    field.error(f"'{shorten(name)}' is not a port name", "write a number, or one of the workloads' port names")
    return None


def _backends(field: Field, ports: tuple[ServicePort, ...]) -> list[BackendGroup]:
    found = []
    for item in field.items():
        fields = item.mapping(_BACKEND_FIELDS)
        if fields is None:
            continue
        if ("selector" in fields) == ("ip" in fields):
            item.error("a backend needs exactly one of selector and ip", "write one of them")
            continue
        weight = fields["weight"].integer(0, MAX_WEIGHT) if "weight" in fields else 1
        number = fields["port"].integer(1, LAST_PORT) if "port" in fields else None
        selector = read_labels(fields["selector"]) if "selector" in fields else ()
        ip = read_address(fields["ip"]) if "ip" in fields else None
        if "selector" in fields:
            if "port" in fields:
                fields["port"].error("workloads serve at the service port's targetPort", "remove it")
            if not selector:
                fields["selector"].error("an empty selector selects nobody", "write labels")
        elif number is None and any(isinstance(port.target, str) for port in ports):
            item.error("an address has no named ports", "write port: and a number")
        found.append(BackendGroup(selector, ip, number, 1 if weight is None else weight))
    return found


def _health(field: Field, ports: tuple[ServicePort, ...]) -> HealthCheck | None:
    fields = field.mapping(_HEALTH_FIELDS)
    if fields is None:
        return None
    if ("http" in fields) == ("tcp" in fields):
        field.error("a health check is one of http and tcp", "write http: /healthz, or tcp: true")
        return None
    kind, path = HealthKind.TCP, "/"
    if "http" in fields:
        kind, path = HealthKind.HTTP, fields["http"].text() or "/"
        if not _PATH.fullmatch(path):
            fields["http"].error(f"'{shorten(path)}' is not a path", "write one that begins with /")
    elif fields["tcp"].boolean() is False:
        fields["tcp"].error("a health check that is none", "write tcp: true, or remove health")
    port = fields["port"].integer(1, LAST_PORT) if "port" in fields else None
    if "port" not in fields and any(each.protocol is Protocol.UDP for each in ports):
        field.error("nothing can be asked over UDP", "write port: and a TCP port of the backends")
    interval = _seconds(fields, "interval", 2.0)
    return HealthCheck(
        kind,
        path,
        port,
        interval,
        _seconds(fields, "timeout", min(1.0, interval)),
        _times(fields, "rise", 2),
        _times(fields, "fall", 3),
    )


def _seconds(fields: dict[str, Field], name: str, usual: float) -> float:
    if name not in fields:
        return usual
    value = fields[name].value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.1 <= value <= _LONGEST:
        fields[name].error("seconds expected", f"write a number from 0.1 to {_LONGEST}")
        return usual
    return float(value)


def _times(fields: dict[str, Field], name: str, usual: int) -> int:
    return (fields[name].integer(1, 100) or usual) if name in fields else usual
