"""A real Envoy on loopback with the policy's slots, and no datapath around it.

The kernel's part is played by addresses: a client binds 127.0.0.x before it connects, and the ipcache says whose
that is; the listener's own address is the server's. A 200 carries the deciding rule's name in `x-rule`, a 403 in its
body.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lockgate.envoy.config.end import DESTINATION, SOURCE
from lockgate.envoy.config.http_routes import mark_absent_forwarded_proto
from lockgate.envoy.config.identity_filter import Ipcache, identity_filter
from lockgate.envoy.config.policy_shard import sharded_policy
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.policies.identity import IPNetwork
from lockgate.policies.workload import Endpoint
from lockgate.tests.e2e.pinned_ipcache import PinnedIpcache, pinned_ipcache

HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: `rule` names what decided, when the policy filter said it."""

    status: int
    rule: str
    body: str


class LoopbackEnvoy:
    """A running Envoy. `listen` are its (address, port) pairs, `ipcache` is what it goes by."""

    ipcache: PinnedIpcache  # where there is one

    def __init__(self, folder: Path, listen: list[tuple[str, int]], process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.listen = listen
        self.process = process

    @property
    def log(self) -> str:
        """Envoy's own log."""
        return (self.folder / "envoy.log").read_text(errors="replace")

    def connect(self, source: str, to: tuple[str, int] | None = None) -> http.client.HTTPConnection:
        """A connection from `source`, kept alive until it is closed."""
        address, port = to or self.listen[0]
        return http.client.HTTPConnection(address, port, timeout=10, source_address=(source, 0))

    def get(
        self,
        source: str,
        path: str = "/",
        *,
        method: str = "GET",
        to: tuple[str, int] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own."""
        with closing(self.connect(source, to)) as connection:
            return ask(connection, path, method=method, headers=headers)

    def admin(self, path: str) -> str:
        """GET from the admin socket."""
        with closing(_UnixConnection(self.folder / "admin.sock")) as connection:
            connection.request("GET", path)
            return connection.getresponse().read().decode()

    def stat(self, name: str) -> int:
        """One counter or gauge; 0 when it does not exist yet."""
        for line in self.admin(f"/stats?filter=^{name}$").splitlines():
            return int(line.rpartition(": ")[2])
        return 0

    def wait_until_listening(self) -> None:
        """Wait for the first listener. Raises when Envoy ends or ten seconds pass."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"Envoy ended with {self.process.returncode}:\n{self.log[-4000:]}")
            with socket.socket(socket.AF_INET6 if ":" in self.listen[0][0] else socket.AF_INET) as probe:
                if probe.connect_ex(self.listen[0]) == 0:
                    return
            time.sleep(0.01)
        raise TimeoutError(f"Envoy does not listen:\n{self.log[-4000:]}")


def ask(
    connection: http.client.HTTPConnection, path: str, *, method: str = "GET", headers: dict[str, str] | None = None
) -> Answer:
    """One request on an open connection."""
    connection.request(method, path, headers=headers or {})
    response = connection.getresponse()
    body = response.read().decode(errors="replace")
    prefix = "rbac_access_denied_matched_policy["
    rule = body[len(prefix) : -1] if body.startswith(prefix) else response.headers.get("x-rule", "")
    return Answer(response.status, rule, body)


@contextmanager
def running_envoy(
    xds: Path,
    cache: Mapping[IPNetwork, int],
    endpoints: Iterable[Endpoint],
    addresses: tuple[str, ...] = ("127.0.0.1",),
    ports: int = 1,
) -> Iterator[LoopbackEnvoy]:
    """Start Envoy with ADS from the socket `xds`, listening on each address at as many ports as asked for. `cache` says
    whose addresses are, `endpoints` which of them are this node's."""
    with (
        tempfile.TemporaryDirectory(prefix="lockgate-xds-") as name,
        pinned_ipcache(cache, endpoints) as pinned,
    ):
        folder = Path(name)
        free = free_ports(addresses, ports)
        listen = [(address, port) for address in addresses for port in free]
        bootstrap = _bootstrap(folder, xds, listen, pinned.envoy)
        with started(folder, bootstrap, listen) as running:
            running.ipcache = pinned
            yield running


@contextmanager
def started(
    folder: Path,
    bootstrap: dict[str, object],
    listen: list[tuple[str, int]],
    *options: str,
) -> Iterator[LoopbackEnvoy]:
    """Start Envoy with this bootstrap, whose admin socket is `folder`/admin.sock."""
    config = folder / "envoy.json"
    config.write_text(json.dumps(bootstrap))
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(find_binary().path, "-c", config, "--disable-hot-restart", "--concurrency", "1"),
                *("--log-level", "warning", "--component-log-level", "config:info"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **find_module(find_binary()).environment, "LC_ALL": "C"},
        )
    running = LoopbackEnvoy(folder, listen, process)
    try:
        yield running
    finally:
        ended = process.poll()
        process.kill()
        process.wait()
        print(f"Envoy ended by itself: {ended}\n{running.log}")  # shown when the test fails


def free_ports(addresses: tuple[str, ...], count: int) -> list[int]:
    """Ports that are free on all the addresses, from below the range that outgoing connections take theirs from."""
    free: list[int] = []
    while len(free) < count:
        port = random.randrange(12_000, 32_000)
        if port not in free and all(_is_free(address, port) for address in addresses):
            free.append(port)
    return free


def _is_free(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _bootstrap(folder: Path, xds: Path, listen: list[tuple[str, int]], ipcache: Ipcache) -> dict[str, object]:
    sockets = [{"socket_address": {"address": address, "port_value": port}} for address, port in listen]
    slots = [
        sharded_policy(f"lockgate.http.{direction}", key, first_policy_timeout=1.0).to_dict()
        for direction, key in (("egress", SOURCE), ("ingress", DESTINATION))
    ]
    router = {
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }
    rule = {"key": "x-rule", "value": "%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)%"}
    manager = {
        "@type": HTTP,
        "stat_prefix": "http",
        "http_filters": [*slots, router],
        "early_header_mutation_extensions": [mark_absent_forwarded_proto().to_dict()],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                    "response_headers_to_add": [{"header": rule}],
                }
            ]
        },
        "local_reply_config": {
            "mappers": [
                {
                    "filter": {
                        "status_code_filter": {
                            "comparison": {"value": {"default_value": 403, "runtime_key": "denied_status"}}
                        }
                    },
                    "body_format_override": {
                        "text_format_source": {"inline_string": "%RESPONSE_CODE_DETAILS%"},
                    },
                }
            ]
        },
    }
    return {
        "node": {"id": "loopback", "cluster": "test"},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock"), "mode": 0o600}}},
        "layered_runtime": {
            "layers": [{"name": "static", "static_layer": {"re2.max_program_size.error_level": 1000000}}]
        },
        "dynamic_resources": {
            "ads_config": ads_config("DELTA_GRPC"),
        },
        "static_resources": {
            "listeners": [
                {
                    "name": "http",
                    "address": sockets[0],
                    "additional_addresses": [{"address": entry} for entry in sockets[1:]],
                    "listener_filters": [identity_filter(ipcache).to_dict()],
                    "filter_chains": [
                        {
                            "filters": [
                                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                xds_cluster({"pipe": {"path": str(xds)}}),
            ],
        },
    }


def ads_config(api_type: str) -> dict[str, object]:
    """How Envoy talks to the cluster `xds`: GRPC is the state of the world."""
    backoff = {"base_interval": "0.05s", "max_interval": "0.2s"}
    return {
        "api_type": api_type,
        "transport_api_version": "V3",
        "set_node_on_first_message_only": True,
        "grpc_services": [
            {"envoy_grpc": {"cluster_name": "xds", "retry_policy": {"retry_back_off": backoff}}},
        ],
    }


def xds_cluster(address: dict[str, object], **more: object) -> dict[str, object]:
    """The static cluster of the xDS server."""
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"max_inbound_window_update_frames_per_data_frame_sent": 100000}
    return {
        "name": "xds",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            options: {
                "@type": f"type.googleapis.com/{options}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        **more,
    }


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self._path))
