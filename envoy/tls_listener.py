"""The transparent TLS listener of the node: what connections pass whose server name (SNI) a rule asks for.

The greeting is read and everything else is left as it is: TLS goes on end to end. One listener per address family on
loopback, with two policy slots. It comes by LDS, so that a node without the agent's word has none, and the kernel then
drops what it would send there.
https://www.envoyproxy.io/docs/envoy/latest/configuration/listeners/listener_filters/tls_inspector
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from betterproto2 import Message

from .access_log import CONNECTION_FORMAT
from .http_listener import NOT_SYNCED, ORIGINAL_DESTINATION, connection_limit, refuse_own_address
from .identity_filter import Ipcache, identity_filter
from .messages import (
    accesslog,
    core,
    file_access_log,
    listener,
    matcher,
    network_rbac,
    original_dst,
    original_src,
    protobuf,
    rbac,
    tcp_proxy,
    tls_inspector,
    xds_core,
    xds_matcher,
)

RBAC_TYPE_URL = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
NO_TIMEOUT = timedelta(0)
_GREETING = timedelta(seconds=15)  # for the whole ClientHello
_MOST_EARLY_DATA = 65536  # bytes of the client's that wait for the server


@dataclass(frozen=True, slots=True)
class TlsListener:
    """The TLS listeners' settings. The slots are ECDS resource names of network RBAC filters."""

    port: int = 15002
    egress_slot: str = "lockgate.tls.egress"
    ingress_slot: str = "lockgate.tls.ingress"
    first_policy_timeout: float = 15.0  # seconds; the listener stays closed so long, then opens and denies
    mark: int = 0xA00  # SO_MARK of upstream sockets
    backlog: int = 4096
    connections_per_client: int = 0  # as of HttpListener


def tls_listeners(settings: TlsListener, access_log: Path, ipcache: Ipcache) -> Mapping[str, bytes]:
    """One serialised Listener for each address family, by name; denials are logged to `access_log`."""
    found = {}
    for family, address, bits in (("ipv4", "127.0.0.1", 32), ("ipv6", "::1", 128)):
        name = f"lockgate.tls.{family}"
        found[name] = bytes(_listener(settings, access_log, ipcache, name, address, bits))
    return found


def _listener(
    settings: TlsListener, access_log: Path, ipcache: Ipcache, name: str, address: str, bits: int
) -> listener.Listener:
    return listener.Listener(
        name=name,
        stat_prefix=name.replace(".", "_"),
        address=core.Address(socket_address=core.SocketAddress(address=address, port_value=settings.port)),
        transparent=True,
        traffic_direction=core.TrafficDirection.OUTBOUND,
        tcp_backlog_size=settings.backlog,
        listener_filters_timeout=_GREETING,
        listener_filters=[
            _listener_filter("original_dst", original_dst.OriginalDst()),
            identity_filter(ipcache),
            _listener_filter("tls_inspector", tls_inspector.TlsInspector()),
            _listener_filter("original_src", original_src.OriginalSrc(mark=settings.mark)),
        ],
        filter_chains=[
            _encrypted(settings, access_log),
            refuse_own_address(address, bits, settings.port),
        ],
    )


def _listener_filter(name: str, config: Message) -> listener.ListenerFilter:
    return listener.ListenerFilter(name=f"envoy.filters.listener.{name}", typed_config=protobuf.Any.pack(config))


def _encrypted(settings: TlsListener, access_log: Path) -> listener.FilterChain:
    """Judges by the greeting and then only carries bytes."""
    proxy = tcp_proxy.TcpProxy(
        stat_prefix="lockgate_tls",
        cluster=ORIGINAL_DESTINATION,
        idle_timeout=NO_TIMEOUT,
        # Policies judge at the first byte, and no server may notice a connection before.
        upstream_connect_mode=tcp_proxy.UpstreamConnectMode.ON_DOWNSTREAM_DATA,
        max_early_data_bytes=_MOST_EARLY_DATA,
        access_log=[_denied_log(access_log)],
    )
    return listener.FilterChain(
        name="encrypted",
        filters=[
            *connection_limit(settings.connections_per_client),
            _policy_slot(settings.egress_slot, settings.first_policy_timeout),
            _policy_slot(settings.ingress_slot, settings.first_policy_timeout),
            listener.Filter(name="envoy.filters.network.tcp_proxy", typed_config=protobuf.Any.pack(proxy)),
        ],
    )


def _policy_slot(name: str, first_policy_timeout: float) -> listener.Filter:
    return listener.Filter(
        name=name,
        config_discovery=core.ExtensionConfigSource(
            config_source=core.ConfigSource(
                ads=core.AggregatedConfigSource(),
                resource_api_version=core.ApiVersion.V3,
                initial_fetch_timeout=timedelta(seconds=first_policy_timeout),
            ),
            default_config=protobuf.Any.pack(deny_all_connections()),
            type_urls=[RBAC_TYPE_URL],
        ),
    )


def deny_all_connections() -> network_rbac.Rbac:
    """The policy of a slot that has none yet."""
    deny = xds_core.TypedExtensionConfig(
        name="envoy.filters.rbac.action",
        typed_config=protobuf.Any.pack(rbac.Action(name=NOT_SYNCED, action=rbac.RbacAction.DENY)),
    )
    return network_rbac.Rbac(
        matcher=xds_matcher.Matcher(on_no_match=xds_matcher.MatcherOnMatch(action=deny)),
        stat_prefix="lockgate_tls_unsynced.",
    )


def _denied_log(path: Path) -> accesslog.AccessLog:
    denied = matcher.MetadataMatcher(
        filter="envoy.filters.network.rbac",
        path=[matcher.MetadataMatcherPathSegment(key="enforced_engine_result")],
        value=matcher.ValueMatcher(string_match=matcher.StringMatcher(exact="denied")),
    )
    return accesslog.AccessLog(
        name="envoy.access_loggers.file",
        filter=accesslog.AccessLogFilter(
            metadata_filter=accesslog.MetadataFilter(matcher=denied, match_if_key_not_found=False)
        ),
        typed_config=protobuf.Any.pack(
            file_access_log.FileAccessLog(
                path=str(path),
                log_format=core.SubstitutionFormatString(
                    json_format=protobuf.Struct.from_dict(dict(CONNECTION_FORMAT))
                ),
            )
        ),
    )
