"""Workload files: from bytes to workloads and services, as strictly as policies are read."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..endpoint_policy import LAST_PORT
from ..errors import UnreadableError
from ..node import NODE_FIELDS, Node, read_node
from ..service import Service
from ..workload import Workload
from .document import read_documents
from .entry_fields import PORT_NAME, read_labels, read_names, read_own_addresses
from .fields import Field, Findings, shorten
from .problem import Problem
from .service_entry import SERVICE_FIELDS, read_service

_NETNS = re.compile(r"[^/\x00]{1,255}")
_INTERFACE = re.compile(r"[^/\s:]{1,15}")  # IFNAMSIZ less the final zero
_NODE = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9._]{0,251}[A-Za-z0-9])?")
_PLACES = ("netns", "pid", "interface", "cgroup")
DEEPEST_CGROUP = 16  # bpf/processes.c
_WORKLOAD_FIELDS = (
    "name",
    "namespace",
    "labels",
    "netns",
    "pid",
    "born",
    "interface",
    "cgroup",
    "node",
    "ips",
    "ports",
)


@dataclass(frozen=True, slots=True)
class ParsedWorkloads:
    """What one file holds.

    `broken` and `broken_services` are the keys (namespace/name) of what is there but has an error, `broken_nodes` the
    names; `unreadable` is true when a part of the file could not be read far enough to know whom it is about.
    """

    workloads: tuple[Workload, ...]
    problems: tuple[Problem, ...]
    services: tuple[Service, ...] = ()
    broken: frozenset[str] = frozenset()
    unreadable: bool = False
    broken_services: frozenset[str] = frozenset()
    nodes: tuple[Node, ...] = ()
    broken_nodes: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """True when there is no error."""
        return not any(problem.is_error for problem in self.problems)


def parse_workloads(data: bytes, source: str) -> ParsedWorkloads:
    """The lists `workloads:`, `services:` and `nodes:` of a YAML file.

    Nothing is raised: all that is wrong is in `problems`.
    """
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
        self.nodes: dict[str, Node] = {}
        self.broken_nodes: set[str] = set()
        self.unreadable = False

    def document(self, root: Field) -> None:
        fields = root.mapping(("workloads", "services", "nodes"))
        if fields is None:
            self.unreadable = True
            return
        for item in fields["workloads"].items() if "workloads" in fields else ():
            self._workload(item)
        for item in fields["services"].items() if "services" in fields else ():
            self._service(item)
        for item in fields["nodes"].items() if "nodes" in fields else ():
            self._node(item)

    def parsed(self) -> ParsedWorkloads:
        """What the documents read so far hold."""
        return ParsedWorkloads(
            tuple(workload for key, workload in self.workloads.items() if key not in self.broken),
            self.findings.sorted(),
            tuple(service for key, service in self.services.items() if key not in self.broken_services),
            frozenset(self.broken),
            self.unreadable,
            frozenset(self.broken_services),
            tuple(node for name, node in self.nodes.items() if name not in self.broken_nodes),
            frozenset(self.broken_nodes),
        )

    def _workload(self, item: Field) -> None:
        before = self.findings.errors
        fields = item.mapping(_WORKLOAD_FIELDS)
        names = read_names(item, fields) if fields is not None else None
        if fields is None or names is None:
            self.unreadable = True
            return
        name, namespace = names
        workload = Workload(
            name,
            namespace,
            read_labels(fields["labels"]) if "labels" in fields else (),
            *_place(item, fields),
            ips=read_own_addresses(fields["ips"]) if "ips" in fields else (),
            ports=_ports(fields["ports"]) if "ports" in fields else {},
            source=self.findings.source,
            line=item.line,
            node=_node(item, fields),
            born=_born(item, fields),
            cgroup=_cgroup(item, fields),
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
        fields = item.mapping(SERVICE_FIELDS)
        names = read_names(item, fields) if fields is not None else None
        if fields is None or names is None:
            self.unreadable = True
            return
        name, namespace = names
        service = read_service(item, fields, name, namespace)
        if service.key in self.services:
            item.error(f"the service {service.key} is listed twice", "remove one of the two")
        elif self.findings.errors > before:
            self.broken_services.add(service.key)
        else:
            self.services[service.key] = service

    def _node(self, item: Field) -> None:
        before = self.findings.errors
        fields = item.mapping(NODE_FIELDS)
        node = read_node(item, fields) if fields is not None else None
        if node is None:
            self.unreadable = True
        elif node.name in self.nodes:
            item.error(f"the node {node.name} is listed twice", "remove one of the two")
        elif self.findings.errors > before:
            self.broken_nodes.add(node.name)
        else:
            self.nodes[node.name] = node


def _place(item: Field, fields: dict[str, Field]) -> tuple[str | None, int | None, str | None]:
    """netns, pid and interface, at most one of them and cgroup."""
    given = [name for name in _PLACES if name in fields]
    if len(given) > 1:
        item.error(f"{given[0]} and {given[1]} both say where the workload is", f"write one of {', '.join(_PLACES)}")
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


def _cgroup(item: Field, fields: dict[str, Field]) -> str | None:
    """A control group of the node, by its path."""
    if "cgroup" not in fields:
        return None
    if "ips" in fields:
        fields["ips"].error("processes of a control group have the node's addresses", "remove ips")
    group = fields["cgroup"].text()
    if group is None:
        return None
    parts = group.removesuffix("/").split("/")
    if parts[0] or not all(parts[1:]) or {".", ".."} & {*parts} or "\0" in group:
        fields["cgroup"].error(
            f"'{shorten(group)}' is not a control group's path", "write one like /system.slice/nginx.service"
        )
    elif len(parts) == 1:
        fields["cgroup"].error(
            "the root of the control groups is the whole node", "select the node by a policy with nodeSelector"
        )
    elif len(parts) - 1 > DEEPEST_CGROUP:
        fields["cgroup"].error(
            f"a control group {len(parts) - 1} levels deep is not looked for", f"write one of {DEEPEST_CGROUP} at most"
        )
    return "/".join(parts)


def _born(item: Field, fields: dict[str, Field]) -> int | None:
    """When the process began: the 22nd field of /proc/PID/stat."""
    if "born" not in fields:
        return None
    if "pid" not in fields:
        fields["born"].error("born says when the process `pid` began, and there is none", "add pid, or remove it")
    return fields["born"].integer(1, 1 << 63)


def _node(item: Field, fields: dict[str, Field]) -> str:
    """The remote node that it is on."""
    if "node" not in fields:
        return ""
    here = [name for name in _PLACES if name in fields]
    if here:
        item.error(f"{here[0]} says that the workload is on this node, node that it is not", "remove one of the two")
    elif "ips" not in fields:
        item.error("a workload on another node has no address that could be read here", "write ips: and its addresses")
    node = fields["node"].text()
    if node is not None and not valid_node(node):
        fields["node"].error(f"'{shorten(node)}' is not a node id", "use letters, digits, '-', '_' and '.'")
    return node or ""


def valid_node(node: str) -> bool:
    """True for what may be a remote node's id."""
    return _NODE.fullmatch(node) is not None


def _ports(field: Field) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in (field.mapping(None) or {}).items():
        number = value.integer(1, LAST_PORT)
        if not PORT_NAME.fullmatch(name.lower()):
            value.error(f"'{shorten(name)}' is not a port name", "use at most 15 letters, digits and single '-'")
        elif number is not None:
            found[name.lower()] = number
    return found
