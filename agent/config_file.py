"""The settings that have no option of their own: `--config FILE`."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypedDict, cast

import yaml

from ..policies.language.workload_file import valid_node
from .errors import InputError
from .settings import ALLOW, DROP, KubernetesSettings, RemoteSettings, Settings


class ConfigFile(TypedDict, total=False):
    """Keys of the file."""

    http_port: int
    tls_port: int
    kafka_port: int
    dns_port: int
    dns_min_ttl: int
    metrics_port: int
    concurrency: int
    uplinks: tuple[str, ...]
    node_labels: tuple[tuple[str, str], ...]
    envoy_heap_mb: int
    connections_per_client: int
    engines: tuple[str, ...]
    unknown_containers: str
    unknown_pods: str
    host_routing: bool
    envoy_drain: int
    envoy_hang: int
    envoy_cgroup: str
    kubernetes: KubernetesSettings
    remote: RemoteSettings


_ENGINE = re.compile(r"unix:///[^/\s].*").fullmatch
_GROUP = re.compile(r"/|(/[A-Za-z0-9_][A-Za-z0-9_.@-]*)+").fullmatch
_HOST = re.compile(r"[A-Za-z0-9._:-]+").fullmatch
_LIMITS = {
    "http_port": range(1, 65536),
    "tls_port": range(1, 65536),
    "kafka_port": range(1, 65536),
    "dns_port": range(1, 65536),
    "dns_min_ttl": range(86401),
    "metrics_port": range(65536),
    "concurrency": range(1025),
    "envoy_heap_mb": range(1 << 20),
    "connections_per_client": range(1 << 20),
    "envoy_drain": range(2, 86401),
}
_HANG = range(5, 86401)


def read_config(path: Path | None) -> ConfigFile:
    """Reads it; no file is an empty one.

    Raises:
        InputError: unreadable, an unknown key, or a value out of range.
    """
    if path is None:
        return {}
    try:
        value = yaml.load(path.read_bytes(), _StrictLoader) or {}
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark is not None else ""
        raise InputError(f"--config {path}: not YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise InputError(f"--config {path}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise InputError(f"--config {path}: nested too deep; write keys and values, as in 'http_port: 15001'") from None
    if not isinstance(value, dict):
        raise InputError(f"--config {path}: write keys and values, as in 'http_port: 15001'")
    known = ConfigFile.__annotations__
    for key, given in value.items():
        if key not in known:
            raise InputError(f"--config {path}: unknown key {key}; known are {', '.join(sorted(known))}")
        read = _READERS.get(key)
        value[key] = read(path, given) if read is not None else _number(path, key, given)
    _require_different_ports(path, value)
    return cast(ConfigFile, value)


def _number(path: Path, key: str, given: Any) -> int:
    allowed = _LIMITS[key]
    if not isinstance(given, int) or isinstance(given, bool) or given not in allowed:
        raise InputError(f"--config {path}: {key}: write a number from {allowed.start} to {allowed.stop - 1}")
    return given


def _envoy_hang(path: Path, given: Any) -> int:
    if not isinstance(given, int) or isinstance(given, bool) or (given and given not in _HANG):
        raise InputError(
            f"--config {path}: envoy_hang: write 0, or a number of seconds from {_HANG.start} to {_HANG.stop - 1}"
        )
    return given


def _uplinks(path: Path, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"--config {path}: uplinks: write a list of interfaces, as in 'uplinks: [eth0]'")
    return tuple(given)


def _engines(path: Path, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not all(isinstance(each, str) and _ENGINE(each) for each in given):
        raise InputError(
            f"--config {path}: engines: write a list of sockets, as in 'engines: [unix:///var/run/docker.sock]'"
        )
    return tuple(dict.fromkeys(given))


def _unknown(key: str) -> Callable[[Path, Any], Any]:
    def read(path: Path, given: Any) -> Any:
        if given not in (DROP, ALLOW):
            raise InputError(f"--config {path}: {key}: write {DROP} or {ALLOW}")
        return given

    return read


def _envoy_cgroup(path: Path, given: Any) -> str:
    if not isinstance(given, str) or not _GROUP(given):
        raise InputError(f"--config {path}: envoy_cgroup: write the path of a control group, as in / or /lockgate")
    return given


def _host_routing(path: Path, given: Any) -> bool:
    if not isinstance(given, bool):
        raise InputError(f"--config {path}: host_routing: write true or false")
    return given


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that comes twice, of which YAML's own would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is written twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_TCP_PORTS = ("http_port", "tls_port", "kafka_port", "dns_port", "metrics_port")
_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def _require_different_ports(path: Path, value: Mapping[str, Any]) -> None:
    taken: dict[int, str] = {}
    for key in _TCP_PORTS:
        number = value.get(key, _DEFAULTS[key])
        if number and number in taken:
            raise InputError(f"--config {path}: {taken[number]} and {key} are both {number}; give each its own")
        taken[number] = key


_REMOTE = ("address", "port", "authority", "certificate", "key", "nodes")
MOST_NODES = 64


def _remote(path: Path, value: Any) -> RemoteSettings:
    """The section `remote`. Raises InputError."""

    def wrong(key: str, what: str) -> InputError:
        return InputError(f"--config {path}: remote{'.' if key else ''}{key}: {what}")

    if not isinstance(value, dict) or {*value, "admin"} != {*_REMOTE, "admin"}:
        raise wrong("", f"write {', '.join(_REMOTE)}, all of them, maybe admin, and nothing else")
    address, port, nodes = value["address"], value["port"], value["nodes"]
    try:
        ip_address(address if isinstance(address, str) else "")
    except ValueError:
        raise wrong("address", "write the IP address to listen on, as in 0.0.0.0 or '::'") from None
    if not isinstance(port, int) or isinstance(port, bool) or port not in range(1, 65536):
        raise wrong("port", "write a number from 1 to 65535")
    files = {}
    for key in ("authority", "certificate", "key"):
        if not isinstance(value[key], str) or not value[key].startswith("/"):
            raise wrong(key, "write the absolute path of a PEM file")
        files[key] = Path(value[key])
    if (
        not isinstance(nodes, list)
        or not nodes
        or not all(isinstance(node, str) and valid_node(node) for node in nodes)
    ):
        raise wrong("nodes", "write a list of node ids, as in [edge-1, edge-2]")
    if len(nodes) > MOST_NODES or len(set(nodes)) != len(nodes):
        raise wrong("nodes", f"at most {MOST_NODES}, and each once")
    admin = {}
    for node, place in _mapping(value.get("admin", {})):
        host, number = _place(place)
        if node not in nodes or not host or not number:
            raise wrong("admin", "write nodes with their HOST:PORT, as in {edge-1: '192.0.2.77:15009'}")
        admin[node] = (host, number)
    return RemoteSettings(address, port, nodes=tuple(nodes), admin=admin, **files)


def _mapping(value: object) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else [("", "")]


def _place(value: object) -> tuple[str, int]:
    """HOST:PORT; an empty host or the port 0 for anything else."""
    host, _, port = str(value).rpartition(":")
    number = int(port) if port.isdecimal() and len(port) < 6 else 0
    host = host.removeprefix("[").removesuffix("]")
    return (host if _HOST(host) else ""), (number if number in range(1, 65536) else 0)


_KUBERNETES = ("kubeconfig", "node", "services", "pod_prefixes", "pod_interfaces")
_WIDEST = 8  # what holds more is not pods alone
_INTERFACE = re.compile(r"[^\s/]{1,15}").fullmatch
NODE_NAME = "NODE_NAME"


def _kubernetes(path: Path, value: Any) -> KubernetesSettings:
    """The section `kubernetes`. The node is NODE_NAME of the environment where it is not written, else the host's name.
    Raises InputError."""

    def wrong(key: str, what: str) -> InputError:
        return InputError(f"--config {path}: kubernetes{'.' if key else ''}{key}: {what}")

    if not isinstance(value, dict) or not set(value) <= set(_KUBERNETES):
        raise wrong("", f"write {{}}, or some of {', '.join(_KUBERNETES)}, as in 'kubernetes: {{node: worker-1}}'")
    kubeconfig = value.get("kubeconfig")
    if kubeconfig is not None and (not isinstance(kubeconfig, str) or not kubeconfig.startswith("/")):
        raise wrong("kubeconfig", "write the absolute path of a kubeconfig file")
    services = value.get("services", True)
    if not isinstance(services, bool):
        raise wrong("services", "write true or false")
    node = value.get("node", os.environ.get(NODE_NAME) or socket.gethostname().lower())
    if not isinstance(node, str) or not valid_node(node):
        raise wrong("node", f"write the node's name as 'kubectl get nodes' shows it, or set {NODE_NAME}")
    prefixes = value.get("pod_prefixes", [])
    try:
        networks = tuple(dict.fromkeys(ip_network(each) for each in _texts(prefixes)))
        if any(each.prefixlen < _WIDEST for each in networks):
            raise ValueError(f"none is wider than /{_WIDEST}")
    except ValueError as error:
        raise wrong("pod_prefixes", f"write a list of prefixes, as in [10.244.0.0/16] ({error})") from None
    interfaces = value.get("pod_interfaces", [])
    try:
        if not all(map(_INTERFACE, _texts(interfaces))):
            raise ValueError
    except ValueError:
        raise wrong("pod_interfaces", "write a list of what their names begin with, as in [cali]") from None
    return KubernetesSettings(node, Path(kubeconfig) if kubeconfig else None, services, networks, tuple(interfaces))


def _texts(value: object) -> list[str]:
    """Raises ValueError when it is no list of texts."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("no list of texts")
    return value


def _labels(path: Path, value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise InputError(f"--config {path}: node_labels: write keys and texts, as in 'node_labels: {{role: edge}}'")
    return tuple(sorted(value.items()))


# Of all other keys the value is a number.
_READERS: Mapping[str, Callable[[Path, Any], Any]] = {
    "uplinks": _uplinks,
    "engines": _engines,
    "unknown_containers": _unknown("unknown_containers"),
    "unknown_pods": _unknown("unknown_pods"),
    "envoy_cgroup": _envoy_cgroup,
    "envoy_hang": _envoy_hang,
    "host_routing": _host_routing,
    "kubernetes": _kubernetes,
    "remote": _remote,
    "node_labels": _labels,
}
