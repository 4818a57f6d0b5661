"""A classic sidecar pair: an Envoy in the client's pod and one in the server's, each catching traffic by nft REDIRECT.

Both pods get the same nft table and the same Envoy configuration, as a mesh would inject them: outbound connections of
the pod go to port 15001, inbound ones to 15006. Only the inbound listener enforces the policy, which says what the L7
policy of policed.py says. Settings of the connection managers are those of lockgate.envoy.config.http_listener; the one
that exists only to make the shared Envoy invisible (keeping the case of header names) is left out, in the sidecars'
favour.
"""

from __future__ import annotations

import json
import subprocess
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from lockgate.agent.playground import Playground, Pod

from . import counter
from .errors import StartError
from .mode import ALLOWED, PORT, Mode, spawn

_OUTBOUND, _INBOUND = 15001, 15006
# Envoy's own connections are told by group and not by user, so that it may read a clone that only root can enter.
_GROUP = 1337
_UNLIMITED = 4294967295
_NETWORK_FILTERS = "type.googleapis.com/envoy.extensions.filters.network"
_SAME_PROTOCOL = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
        }
    }
}

_NFT = f"""\
table ip sidecar {{
    chain outbound {{
        type nat hook output priority -100;
        meta skgid {_GROUP} return
        oifname "lo" return
        ip protocol tcp redirect to :{_OUTBOUND}
    }}
    chain inbound {{
        type nat hook prerouting priority -100;
        iifname "eth0" tcp dport {PORT} redirect to :{_INBOUND}
    }}
}}
"""


class SidecarPair(Mode):
    """Two passes through two Envoys, and the server no longer sees the client's address."""

    key = "sidecar"
    title = "sidecar pair"
    forbidden = "403"
    intruder_gets = "403"  # it has no sidecar of its own; the server's judges by address
    server_sees = "server"
    proxied = True

    def _engage(self, playground: Playground) -> None:
        self._sidecars: list[tuple[str, subprocess.Popen[bytes]]] = []
        for pod in (self.client, self.server):
            loaded = pod.run(["nft", "-f", "-"], input=_NFT)
            if loaded.returncode != 0:
                raise StartError(f"{self.title}: nft refused the redirect in {pod.netns}: {loaded.stderr.strip()}")
            self._sidecars.append((f"{pod.name} envoy", self._sidecar(pod)))

    def _sidecar(self, pod: Pod) -> subprocess.Popen[bytes]:
        file = self.directory / f"{pod.name}.json"
        file.write_text(json.dumps(self._configuration(pod), indent=1))
        command: list[str | Path] = [self.ground.envoy, "-c", file, "--concurrency", str(self.ground.threads)]
        command += ["--disable-hot-restart", "--log-level", "warning"]
        with self.log_of(f"{pod.name} envoy").open("wb") as log:
            return spawn(pod, command, stdout=log, stderr=subprocess.STDOUT, group=_GROUP, extra_groups=[])

    def _configuration(self, pod: Pod) -> dict[str, Any]:
        return configuration(self._admin(pod), self.client.ipv4)

    def _admin(self, pod: Pod) -> Path:
        return self.directory / f"{pod.name}.sock"

    def _parts(self) -> list[tuple[str, subprocess.Popen[bytes]]]:
        return [*super()._parts(), *self._sidecars]

    def counted(self) -> tuple[int, ...]:
        passed = [(self.client, "outbound"), (self.server, "inbound")]
        return tuple(counter.requests(self._admin(pod), [direction]) for pod, direction in passed)


def configuration(
    admin: Path, client: IPv4Address, method: str = "GET", path: str = ALLOWED, http2: bool = False
) -> dict[str, Any]:
    """The bootstrap of one sidecar, with everything static. With `http2` it goes on in the client's own protocol."""
    return _bootstrap(
        admin,
        [
            _listener("outbound", _OUTBOUND, [_manager("outbound", [])]),
            _listener("inbound", _INBOUND, [_manager("inbound", [_policy(client, method, path)])]),
        ],
        _SAME_PROTOCOL if http2 else {},
    )


def tcp_configuration(admin: Path, client: IPv4Address) -> dict[str, Any]:
    """The same for connections that nobody looks into: the inbound ones are judged by their address."""
    inbound = [_connection_policy(client), _proxy("inbound")]
    listeners = [_listener("outbound", _OUTBOUND, [_proxy("outbound")]), _listener("inbound", _INBOUND, inbound)]
    return _bootstrap(admin, listeners, {})


def _bootstrap(admin: Path, listeners: list[dict[str, Any]], cluster: dict[str, Any]) -> dict[str, Any]:
    return {
        "admin": {"address": {"pipe": {"path": str(admin), "mode": 0o600}}},
        "stats_flush_on_admin": True,
        "static_resources": {"listeners": listeners, "clusters": [_original_destination() | cluster]},
    }


def _manager(name: str, filters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = {
        "@type": f"{_NETWORK_FILTERS}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "name": name,
            "virtual_hosts": [
                {
                    "name": "any",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": ""},
                            "route": {"cluster": "original_destination", "timeout": "0s", "idle_timeout": "0s"},
                        }
                    ],
                }
            ],
        },
        "http_filters": [*filters, _router()],
        "http_protocol_options": {"accept_http_10": True, "enable_trailers": True},
        "server_header_transformation": "PASS_THROUGH",
        "use_remote_address": True,
        "skip_xff_append": True,
        "generate_request_id": False,
        "preserve_external_request_id": True,
        "forward_client_cert_details": "ALWAYS_FORWARD_ONLY",
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _proxy(name: str) -> dict[str, Any]:
    proxy = {
        "@type": f"{_NETWORK_FILTERS}.tcp_proxy.v3.TcpProxy",
        "stat_prefix": name,
        "cluster": "original_destination",
        "idle_timeout": "0s",
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}


def _listener(name: str, port: int, filters: list[dict[str, Any]]) -> dict[str, Any]:
    original_dst = "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
    return {
        "name": name,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
        "tcp_backlog_size": 4096,
        "listener_filters": [
            {"name": "envoy.filters.listener.original_dst", "typed_config": {"@type": original_dst}},
        ],
        "filter_chains": [{"filters": filters}],
    }


def _policy(client: IPv4Address, method: str, path: str) -> dict[str, Any]:
    """One method and path from the client's address."""
    allowed = [
        {"header": {"name": ":method", "string_match": {"exact": method}}},
        {"header": {"name": ":path", "string_match": {"exact": path}}},
    ]
    policy = {
        "permissions": [{"and_rules": {"rules": allowed}}],
        "principals": [{"direct_remote_ip": {"address_prefix": str(client), "prefix_len": 32}}],
    }
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"bench": policy}},
        },
    }


def _connection_policy(client: IPv4Address) -> dict[str, Any]:
    """Whoever connects from the client's address."""
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"direct_remote_ip": {"address_prefix": str(client), "prefix_len": 32}}],
    }
    return {
        "name": "envoy.filters.network.rbac",
        "typed_config": {
            "@type": f"{_NETWORK_FILTERS}.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"bench": policy}},
            "stat_prefix": "inbound",
        },
    }


def _router() -> dict[str, Any]:
    kind = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return {"name": "envoy.filters.http.router", "typed_config": {"@type": kind, "suppress_envoy_headers": True}}


def _original_destination() -> dict[str, Any]:
    limits = ("max_connections", "max_pending_requests", "max_requests", "max_connection_pools")
    return {
        "name": "original_destination",
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(limits, _UNLIMITED)]},
    }
