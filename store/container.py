"""Containers as workloads: from what an engine tells of one (`GET /containers/ID/json`) to entries of a workloads file.

The fields are those of the Docker Engine API, which Podman speaks too: https://docs.docker.com/reference/api/engine/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..policies.labels import valid_labels
from .content import Document

NAMESPACE_LABEL = "lockgate.namespace"
PORTS_LABEL = "lockgate.ports"
HOST_LABEL = "lockgate.host-network"  # `expected`: whoever wrote it knows that no policy covers the container
_OWN_PREFIX = "lockgate."
_COMPOSE_PREFIX = "com.docker.compose."
_COMPOSE_KEPT = frozenset({"com.docker.compose.project", "com.docker.compose.service"})
# They say of which build something is, or whose: every container would have an identity of its own.
_LEFT_OUT = ("org.opencontainers.", "io.kubernetes.", "io.cilium.", _OWN_PREFIX, _COMPOSE_PREFIX)
_DEFAULT_NAMESPACE = "default"
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_PORT = re.compile(r"\s*([A-Za-z0-9-]{1,15})\s*=\s*([0-9]{1,5})\s*")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9.]+")
_SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class Network:
    """A network that a container is on, and its addresses there."""

    name: str
    ips: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Container:
    """One running container. `mode` is how it was connected first; `born` is when its process started, in clock ticks
    since boot (0: not known), so that another process with its number is not taken for it."""

    id: str
    name: str
    mode: str
    pid: int
    born: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    networks: tuple[Network, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Container:
        """What `to_json` made. Raises KeyError, TypeError or ValueError."""
        labels = tuple((str(key), str(text)) for key, text in value["labels"])
        networks = tuple(Network(each["name"], tuple(each["ips"])) for each in value["networks"])
        return cls(**{**value, "labels": labels, "networks": networks})


@dataclass(slots=True)
class Listing:
    """Containers as documents, sorted by source, and a sentence for each that cannot be policed as it is."""

    documents: list[Document] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_container(told: Mapping[str, Any], born: int = 0) -> Container | None:
    """What an engine tells of one container; None when it does not run. Raises KeyError or TypeError when it is not
    what the API says."""
    state = told["State"]
    if not state["Running"] or not state["Pid"]:
        return None
    mode = str((told.get("HostConfig") or {}).get("NetworkMode") or "")
    networks = [
        Network(name, tuple(ip for ip in (told_of.get("IPAddress"), told_of.get("GlobalIPv6Address")) if ip))
        for name, told_of in ((told.get("NetworkSettings") or {}).get("Networks") or {}).items()
    ]
    networks.sort(key=lambda network: (network.name != mode and not _is_default(network, mode), network.name))
    return Container(
        id=str(told["Id"]),
        name=str(told["Name"]).lstrip("/"),
        mode=mode,
        pid=int(state["Pid"]),
        born=born,
        labels=tuple(sorted(((told.get("Config") or {}).get("Labels") or {}).items())),
        networks=tuple(networks),
    )


def list_containers(engine: str, containers: Iterable[Container]) -> Listing:
    """Every container as a document `ENGINE/NAME` with its workloads: one for each network that it is on."""
    listing = Listing()
    taken: set[tuple[str, str]] = set()
    for container in sorted(containers, key=lambda each: each.id):
        problem = _not_policed(container)
        if problem is not None:
            listing.problems.append(f"{engine}: container {container.name} {problem}")
        if container.mode.partition(":")[0] in ("host", "none", "container"):
            continue
        namespace = _namespace(engine, container, listing.problems)
        name = _unlike(taken, namespace, _plain(container.name), container.id[:_SHORT_ID])
        common: dict[str, Any] = {"namespace": namespace, "labels": _labels(container), "pid": container.pid}
        if container.born:
            common["born"] = container.born
        ports = _ports(engine, container, listing.problems)
        if ports:
            common["ports"] = ports
        connected = [network for network in container.networks if network.ips]
        entries = [
            {
                "name": _unlike(taken, namespace, f"{name}.{_plain(network.name)}", str(number)) if number else name,
                **common,
                "ips": list(network.ips),
            }
            for number, network in enumerate(connected)
        ]
        content = {"workloads": entries or [{"name": name, **common}]}
        listing.documents.append(Document(f"{engine}/{container.name}", json.dumps(content).encode()))
    listing.documents.sort(key=lambda document: document.source)
    return listing


def _not_policed(container: Container) -> str | None:
    kind, _, other = container.mode.partition(":")
    if kind == "host" and dict(container.labels).get(HOST_LABEL) != "expected":
        return (
            "uses the node's own network, so no policy can be enforced on it; give it a network of its own, or the "
            f"label {HOST_LABEL}=expected"
        )
    if kind == "container":
        return f"uses the network of container {other[:_SHORT_ID]} and is policed as that one, whatever its labels are"
    return None


def _is_default(network: Network, mode: str) -> bool:
    """The network called `bridge` (Docker) or `podman` is what the mode `default` or `bridge` means."""
    return mode in ("default", "bridge") and network.name in ("bridge", "podman")


def _plain(name: str) -> str:
    """As names of workloads are written. Two of them and suffixes fit in one."""
    return _NOT_IN_NAMES.sub("-", name.lower()).strip("-.")[:100] or "container"


def _unlike(taken: set[tuple[str, str]], namespace: str, name: str, suffix: str) -> str:
    """`name`, longer by `suffix` where another workload is called so."""
    while (namespace, name) in taken:
        name = f"{name}-{suffix}"
    taken.add((namespace, name))
    return name


def _namespace(engine: str, container: Container, problems: list[str]) -> str:
    wanted = dict(container.labels).get(NAMESPACE_LABEL, _DEFAULT_NAMESPACE)
    if _NAMESPACE.fullmatch(wanted):
        return wanted
    problems.append(
        f"{engine}: container {container.name}: the label {NAMESPACE_LABEL} is no namespace, so it is taken for one in "
        f"'{_DEFAULT_NAMESPACE}'; write lower-case letters, digits and '-'"
    )
    return _DEFAULT_NAMESPACE


def _labels(container: Container) -> dict[str, str]:
    """Those that policies can name: what is no label of Kubernetes' kind is left out."""
    return valid_labels(
        (key, value) for key, value in container.labels if key in _COMPOSE_KEPT or not key.startswith(_LEFT_OUT)
    )


def _ports(engine: str, container: Container, problems: list[str]) -> dict[str, int]:
    """`lockgate.ports: http=8080, metrics=9090`."""
    found: dict[str, int] = {}
    text = dict(container.labels).get(PORTS_LABEL, "")
    for part in text.split(",") if text else ():
        match = _PORT.fullmatch(part)
        name, number = (match[1].lower(), int(match[2])) if match is not None else ("", 0)
        if not re.search("[a-z]", name) or "--" in name or name[0] == "-" or name[-1] == "-" or not 0 < number < 65536:
            problems.append(
                f"{engine}: container {container.name}: '{part.strip()}' in the label {PORTS_LABEL} is no named port; "
                "write it as in http=8080,metrics=9090"
            )
        else:
            found[name] = number
    return found
