"""What an Envoy on a machine without an agent starts with: files for people to read. Pure: settings in, text out.

It has its policies over TCP with mutual TLS from an agent elsewhere. Nothing of ours redirects connections to it there:
whoever runs the machine does (docs/xds.md has the rules for nft), and its listeners ask the kernel where the client
wanted to go. It enforces rules of HTTP and gRPC. Certificate, key and authority are read again when their files are
replaced; https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/security/secret says how.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ...policies.language.workload_file import valid_node
from ..errors import BootstrapError
from ..running.run_files import ADMIN_SOCKET
from .access_log import FILE_NAME as ACCESS_LOG
from .bootstrap import LONGEST_SOCKET_PATH, UPSTREAM_OPTIONS, ads, runtime
from .end import DESTINATION, SOURCE
from .http_listener import BUFFER, ORIGINAL_DESTINATION, HttpListener, connection_manager, original_destination_cluster
from .messages import (
    boot,
    cluster,
    composite,
    core,
    direct_response,
    endpoint,
    hcm,
    listener,
    original_dst,
    protobuf,
    tls,
    upstream_http,
)
from .policy_shard import sharded_policy
from .policy_slot import COMPOSITE_TYPE_URL, XDS_CLUSTER, policy_source
from .remote_admin import admin_cluster, admin_listener

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*").fullmatch

BOOTSTRAP_FILE = "envoy.json"
_CERTIFICATE_FILE, _AUTHORITY_FILE = "certificate.json", "authority.json"  # an SDS file holds one secret
TABLE_SLOTS = ("lockgate.remote.source", "lockgate.remote.destination")  # xds/compile/address_table.py
_CERTIFICATE, _AUTHORITY = "lockgate.node", "lockgate.authority"
_FILES = {_CERTIFICATE: _CERTIFICATE_FILE, _AUTHORITY: _AUTHORITY_FILE}
_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """One remote Envoy. `folder` is where the files, the admin socket and the access log are on its machine; paths
    are absolute, `server` is the agent's host name or address as its certificate says it."""

    node_id: str
    server: str
    server_port: int
    authority: Path
    certificate: Path
    key: Path
    folder: Path
    port: int = 15001
    admin_port: int = 0  # where the agent may ask for the configuration in force; 0: nowhere


def remote_bootstrap(settings: RemoteSettings) -> dict[str, str]:
    """The files by name. Raises BootstrapError for settings with which Envoy could never start."""
    _check(settings)
    http = HttpListener(port=settings.port)
    message = boot.Bootstrap(
        node=core.Node(id=settings.node_id, cluster="lockgate"),
        admin=boot.Admin(address=core.Address(pipe=core.Pipe(path=str(settings.folder / ADMIN_SOCKET), mode=0o600))),
        static_resources=boot.BootstrapStaticResources(
            listeners=[_listener(http, settings.folder / ACCESS_LOG), *_admin_listeners(settings)],
            clusters=[_xds_cluster(settings), original_destination_cluster(http), *_admin_clusters(settings)],
        ),
        dynamic_resources=boot.BootstrapDynamicResources(ads_config=ads(longest=timedelta(seconds=30))),
        layered_runtime=runtime(),
        stats_flush_on_admin=True,
    )
    return {
        BOOTSTRAP_FILE: json.dumps(message.to_dict(), indent=1) + "\n",
        **{name: json.dumps({"resources": [secret]}, indent=1) + "\n" for name, secret in _secrets(settings).items()},
    }


def _check(settings: RemoteSettings) -> None:
    for path in (settings.folder, settings.authority, settings.certificate, settings.key):
        if not path.is_absolute():
            raise BootstrapError(f"{path} is not absolute; give it from /")
    if len(str(settings.folder / ADMIN_SOCKET).encode()) > LONGEST_SOCKET_PATH:
        raise BootstrapError(f"{settings.folder}: the path is too long for a socket in it; give a shorter one")
    if not settings.node_id:
        raise BootstrapError("the node has no id; give the one of its certificate")
    if not valid_node(settings.node_id):
        raise BootstrapError(f"'{settings.node_id}' is not a node id; use letters, digits, '-', '_' and '.'")
    if not _HOST(settings.server):
        raise BootstrapError(f"'{settings.server}' is no host; give the agent's address or DNS name")
    ports = (settings.port, settings.server_port, *((settings.admin_port,) if settings.admin_port else ()))
    for port in ports:
        if not 0 < port < 65536:
            raise BootstrapError(f"{port} is no port; give one from 1 to 65535")
    if settings.admin_port == settings.port:
        raise BootstrapError(f"{settings.port} cannot be both ports of Envoy; give two")


def _listener(http: HttpListener, access_log: Path) -> listener.Listener:
    tables = [
        hcm.HttpFilter(
            name=slot,
            config_discovery=policy_source(composite.Composite(), http.first_policy_timeout, COMPOSITE_TYPE_URL),
        )
        for slot in TABLE_SLOTS
    ]
    policy = [
        sharded_policy(name, end, http.first_policy_timeout)
        for name, end in ((http.egress_slot, SOURCE), (http.ingress_slot, DESTINATION))
    ]
    manager = connection_manager(http, access_log, [*tables, *policy], ORIGINAL_DESTINATION)
    # Nobody here ends requests that run while policies change, so nobody need be told of them.
    manager.access_log = [each for each in manager.access_log if each.name == "envoy.access_loggers.file"]
    manager.access_log_options = None
    policed = listener.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=protobuf.Any.pack(manager)
    )
    # A connection to the listener itself would be sent on to the listener, again and again.
    refused = listener.Filter(
        name="envoy.filters.network.direct_response", typed_config=protobuf.Any.pack(direct_response.Config())
    )
    address, other = (
        core.Address(socket_address=core.SocketAddress(address=each, port_value=http.port))
        for each in ("0.0.0.0", "::")
    )
    return listener.Listener(
        name="lockgate.http",
        stat_prefix="lockgate_http",
        address=address,
        additional_addresses=[listener.AdditionalAddress(address=other)],
        per_connection_buffer_limit_bytes=BUFFER,
        tcp_backlog_size=http.backlog,
        listener_filters=[
            listener.ListenerFilter(
                name="envoy.filters.listener.original_dst",
                typed_config=protobuf.Any.pack(original_dst.OriginalDst()),
            )
        ],
        filter_chains=[
            listener.FilterChain(name="policed", filters=[policed]),
            listener.FilterChain(
                name="own_port",
                filter_chain_match=listener.FilterChainMatch(destination_port=http.port),
                filters=[refused],
            ),
        ],
    )


def _admin_listeners(settings: RemoteSettings) -> list[listener.Listener]:
    if not settings.admin_port:
        return []
    own, agent = _by_file(settings, _CERTIFICATE), _by_file(settings, _AUTHORITY)
    return [admin_listener(settings.admin_port, own, agent)]


def _admin_clusters(settings: RemoteSettings) -> list[cluster.Cluster]:
    return [admin_cluster(settings.folder / ADMIN_SOCKET)] if settings.admin_port else []


def _by_file(settings: RemoteSettings, secret: str) -> tls.SdsSecretConfig:
    source = core.PathConfigSource(path=str(settings.folder / _FILES[secret]))
    return tls.SdsSecretConfig(
        name=secret, sds_config=core.ConfigSource(path_config_source=source, resource_api_version=core.ApiVersion.V3)
    )


def _xds_cluster(settings: RemoteSettings) -> cluster.Cluster:
    options = upstream_http.HttpProtocolOptions(
        explicit_http_config=upstream_http.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=core.Http2ProtocolOptions(
                max_inbound_window_update_frames_per_data_frame_sent=100_000,  # see bootstrap.py
                connection_keepalive=core.KeepaliveSettings(
                    interval=timedelta(seconds=30), timeout=timedelta(seconds=10)
                ),
            )
        )
    )

    context = tls.UpstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            alpn_protocols=["h2"],
            tls_certificate_sds_secret_configs=[_by_file(settings, _CERTIFICATE)],
            validation_context_sds_secret_config=_by_file(settings, _AUTHORITY),
        ),
        sni="" if _is_address(settings.server) else settings.server,
    )
    address = core.SocketAddress(address=settings.server, port_value=settings.server_port)
    return cluster.Cluster(
        name=XDS_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC if _is_address(settings.server) else _BY_NAME,
        connect_timeout=timedelta(seconds=5),
        typed_extension_protocol_options={UPSTREAM_OPTIONS: protobuf.Any.pack(options)},
        transport_socket=core.TransportSocket(
            name="envoy.transport_sockets.tls", typed_config=protobuf.Any.pack(context)
        ),
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=XDS_CLUSTER,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(endpoint=endpoint.Endpoint(address=core.Address(socket_address=address)))
                    ]
                )
            ],
        ),
    )


_BY_NAME = cluster.ClusterDiscoveryType.STRICT_DNS


def _secrets(settings: RemoteSettings) -> dict[str, Any]:
    """Both secrets by file. Each folder is watched: what is renamed into it is read."""

    def watched(path: Path) -> dict[str, str]:
        return {"path": str(path.parent)}

    certificate = {
        "certificate_chain": {"filename": str(settings.certificate)},
        "private_key": {"filename": str(settings.key)},
        "watched_directory": watched(settings.certificate),
    }
    kind = "IP_ADDRESS" if _is_address(settings.server) else "DNS"
    authority = {
        "trusted_ca": {"filename": str(settings.authority)},
        "watched_directory": watched(settings.authority),
        "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": settings.server}}],
    }
    return {
        _CERTIFICATE_FILE: {"@type": _SECRET, "name": _CERTIFICATE, "tls_certificate": certificate},
        _AUTHORITY_FILE: {"@type": _SECRET, "name": _AUTHORITY, "validation_context": authority},
    }


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
