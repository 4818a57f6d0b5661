"""The Envoy of bench/xds: it has its clusters from a control plane, and routes everything to the first of them."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lockgate.envoy.running.binary import EnvoyBinary

from .errors import StartError

WAIT = 60.0  # seconds after which a change that shows no effect ends the run
_CLUSTER = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def await_origin(connection: http.client.HTTPConnection, origin: str) -> float:
    """Ask until this origin answers; returns when it did, on the monotonic clock. Raises StartError."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            connection.request("GET", "/")
            answer = connection.getresponse().read()
        except (OSError, http.client.HTTPException):  # it is still starting
            connection.close()
            time.sleep(0.02)
            continue
        if answer == origin.encode():
            return time.monotonic()
    raise StartError(f"no answer of origin {origin} within {WAIT:.0f} s")


@contextmanager
def origin(name: str) -> Iterator[int]:
    """A web server that answers with its name; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.wfile.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(name)}\r\n\r\n{name}".encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield running.server_address[1]
        running.shutdown()


@contextmanager
def clusters_envoy(directory: Path, envoy: EnvoyBinary, xds: Path | int) -> Iterator[int]:
    """A running Envoy that routes everything to the cluster c0; yields its port. Its clusters come by delta xDS from
    the socket `xds`, or by REST from this port, which it asks again a tenth of a second after each answer."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as free:
        port = free.server_address[1]
    config = directory / "envoy.json"
    config.write_text(json.dumps(_bootstrap(xds, port)))
    options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "error")
    command = [str(envoy.path), "-c", str(config), *options]
    with (directory / "envoy.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


def _bootstrap(xds: Path | int, port: int) -> dict[str, Any]:
    types = "type.googleapis.com/"
    manager = {
        "@type": types + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "route_config": {
            "validate_clusters": False,
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "c0"}}]}
            ],
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": types + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    source = {"resource_api_version": "V3", **({"ads": {}} if isinstance(xds, Path) else _rest())}
    return {
        "node": {"id": "bench", "cluster": "bench"},
        "dynamic_resources": {"cds_config": source, **(_ads() if isinstance(xds, Path) else {})},
        # As the node's Envoy has it: the flush of each five seconds holds 10000 clusters up for a fifth of a second.
        "stats_flush_on_admin": True,
        "static_resources": {
            "listeners": [
                {
                    "name": "web",
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": filters}],
                }
            ],
            "clusters": [_control_plane(xds)],
        },
    }


def _ads() -> dict[str, Any]:
    service = {"envoy_grpc": {"cluster_name": "xds"}}
    return {
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [service],
        }
    }


def _rest() -> dict[str, Any]:
    polling = {"cluster_names": ["xds"], "refresh_delay": "0.1s", "request_timeout": "30s"}
    return {"api_config_source": {"api_type": "REST", "transport_api_version": "V3", **polling}}


def _control_plane(xds: Path | int) -> dict[str, Any]:
    if isinstance(xds, Path):
        address: dict[str, Any] = {"pipe": {"path": str(xds)}}
        protocol: dict[str, Any] = {
            "http2_protocol_options": {"max_inbound_window_update_frames_per_data_frame_sent": 100000}
        }
    else:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": xds}}
        protocol = {"http_protocol_options": {}}
    return {
        "name": "xds",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            _CLUSTER: {"@type": f"type.googleapis.com/{_CLUSTER}", "explicit_http_config": protocol}
        },
        "load_assignment": {
            "cluster_name": "xds",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
