"""Workload files: from bytes to workloads and services, as strictly as policies are read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address

from .document import read_documents
from .endpoint_policy import LAST_PORT
from .errors import UnreadableError
from .fields import Field, Findings, shorten
from .labels import RESERVED, split_key, valid_key, valid_value
from .problem import Problem
from .service import Service
from .workload import IPAddress, Workload

DEFAULT_NAMESPACE = "default"
_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9](?:[a-z0-9-]{0,13}[a-z0-9])?")
_NETNS = re.compile(r"[^/\x00]{1,255}")
_INTERFACE = re.compile(r"[^/\s:]{1,15}")  # IFNAMSIZ less the final zero
_WORKLOAD_FIELDS = ("name", "namespace", "labels", "netns", "pid", "interface", "ips", "ports")


@dataclass(frozen=True, slots=True)
class ParsedWorkloads:
    """What one file holds.

    `broken` and `broken_services` are the keys (namespace/name) of what is there but has an error; `unreadable` is true
    when a part of the file could not be read far enough to know whom it is about.
    """

    workloads: tuple[Workload, ...]
    problems: tuple[Problem, ...]
    services: tuple[Service, ...] = ()
    broken: frozenset[str] = frozenset()
    unreadable: bool = False
    broken_services: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """True when there is no error."""
        return not any(problem.is_error for problem in self.problems)


def parse_workloads(data: bytes, source: str) -> ParsedWorkloads:
    """The `workloads:` and `services:` lists of a YAML file. Nothing is raised: all that is wrong is in `problems`."""
    findings = Findings(source, {})
    reader = _Reader(findings)
    for root in read_documents(data):
        if isinstance(root, UnreadableError):
            findings.add(root.line, "", root.message)
            reader.unreadable = True
        else:
            reader.document(Field(root, findings))
    return reader.parsed()


def read_workloads(root: Field) -> ParsedWorkloads:
    """The same lists in a document that is already open. Its problems go to the field's own findings as well."""
    reader = _Reader(root.findings)
    reader.document(root)
    return reader.parsed()


class _Reader:
    def __init__(self, findings: Findings) -> None:
        self.findings = findings
        self.workloads: dict[str, Workload] = {}
        self.services: dict[str, Service] = {}
        self.broken: set[str] = set()
        self.broken_services: set[str] = set()
        self.unreadable = False

    def document(self, root: Field) -> None:
        fields = root.mapping(("workloads", "services"))
        if fields is None:
            self.unreadable = True
            return
        for item in fields["workloads"].items() if "workloads" in fields else ():
            self._workload(item)
        for item in fields["services"].items() if "services" in fields else ():
            self._service(item)

    def parsed(self) -> ParsedWorkloads:
        """What the documents read so far hold."""
        return ParsedWorkloads(
            tuple(workload for key, workload in self.workloads.items() if key not in self.broken),
            self.findings.sorted(),
            tuple(service for key, service in self.services.items() if key not in self.broken_services),
            frozenset(self.broken),
            self.unreadable,
            frozenset(self.broken_services),
        )

    def _workload(self, item: Field) -> None:
        before = self.findings.errors
        fields = item.mapping(_WORKLOAD_FIELDS)
        names = _names(item, fields) if fields is not None else None
        if fields is None or names is None:
            self.unreadable = True
            return
        name, namespace = names
        workload = Workload(
            name,
            namespace,
            _labels(fields["labels"]) if "labels" in fields else (),
            *_place(item, fields),
            ips=_addresses(fields["ips"]) if "ips" in fields else (),
            ports=_ports(fields["ports"]) if "ports" in fields else {},
            source=self.findings.source,
            line=item.line,
        )
        if workload.key in self.workloads:
            first = self.workloads[workload.key].line
            item.error(f"the workload {workload.key} is listed twice (first in line {first})", "remove one of the two")
        elif self.findings.errors > before:
            self.broken.add(workload.key)
        else:
            self.workloads[workload.key] = workload

    def _service(self, item: Field) -> None:
        before = self.findings.errors
        fields = item.mapping(("name", "namespace", "labels", "selector", "ips"))
        names = _names(item, fields) if fields is not None else None
        if fields is None or names is None:
            self.unreadable = True
            return
        name, namespace = names
        service = Service(
            name,
            namespace,
            _labels(fields["labels"]) if "labels" in fields else (),
            _labels(fields["selector"]) if "selector" in fields else (),
            _addresses(fields["ips"]) if "ips" in fields else (),
            self.findings.source,
            item.line,
        )
        if service.key in self.services:
            item.error(f"the service {service.key} is listed twice", "remove one of the two")
        elif self.findings.errors > before:
            self.broken_services.add(service.key)
        else:
            self.services[service.key] = service


def _names(item: Field, fields: dict[str, Field]) -> tuple[str, str] | None:
    name = fields["name"].text() if "name" in fields else ""
    namespace = fields["namespace"].text() if "namespace" in fields else DEFAULT_NAMESPACE
    if name == "":
        item.error("the entry has no name", "write name: and a name")
        return None
    if name is None or namespace is None:
        return None
    if not _NAME.fullmatch(name):
        fields["name"].error(f"'{shorten(name)}' is not a name", "use lower-case letters, digits, '-' and '.'")
        return None
    if not _NAMESPACE.fullmatch(namespace):
        fields["namespace"].error(
            f"'{shorten(namespace)}' is not a namespace", "use lower-case letters, digits and '-'"
        )
        return None
    return name, namespace


def _labels(field: Field) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for key, value in (field.mapping(None) or {}).items():
        source, name = split_key(key, "")
        text = value.text()
        if source == RESERVED:
            value.error("reserved labels are not given to workloads", "remove it")
        elif not valid_key(name):
            value.error(f"'{shorten(key)}' is not a label key", "write name or prefix/name")
        elif text is not None and not valid_value(text):
            value.error(
                f"'{shorten(text)}' is not a label value",
                "use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            )
        elif text is not None:
            found[key] = text
    return tuple(sorted(found.items()))


def _place(item: Field, fields: dict[str, Field]) -> tuple[str | None, int | None, str | None]:
    """netns, pid and interface, at most one of them."""
    given = [name for name in ("netns", "pid", "interface") if name in fields]
    if len(given) > 1:
        item.error(f"{given[0]} and {given[1]} both say where the workload is", "write one of netns, pid and interface")
    netns = fields["netns"].text() if "netns" in fields else None
    if netns is not None and (not _NETNS.fullmatch(netns) or netns in (".", "..")):
        fields["netns"].error(
            f"'{shorten(netns)}' is not a network namespace's name", "write a name as 'ip netns' lists it"
        )
    interface = fields["interface"].text() if "interface" in fields else None
    if interface is not None and (not _INTERFACE.fullmatch(interface) or interface in (".", "..")):
        fields["interface"].error(
            f"'{shorten(interface)}' is not an interface name", "write a name as 'ip link' lists it"
        )
    pid = fields["pid"].integer(1, 1 << 22) if "pid" in fields else None
    return netns, pid, interface


def _addresses(field: Field) -> tuple[IPAddress, ...]:
    found: list[IPAddress] = []
    for item in field.items():
        text = item.text()
        if text is None:
            continue
        try:
            if "%" in text:
                raise ValueError(text)
            address = ip_address(text)
        except ValueError:
            item.error(f"'{shorten(text)}' is not an IP address", "write the address alone, without prefix or port")
            continue
        if address in found:
            item.error(f"{address} is listed twice", "remove one of the two")
        found.append(address)
    return tuple(found)


def _ports(field: Field) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in (field.mapping(None) or {}).items():
        number = value.integer(1, LAST_PORT)
        if not _PORT_NAME.fullmatch(name.lower()):
            value.error(f"'{shorten(name)}' is not a port name", "use at most 15 letters, digits and single '-'")
        elif number is not None:
            found[name.lower()] = number
    return found
