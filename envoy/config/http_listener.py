"""The transparent HTTP listener of the node: what every L7-policed HTTP connection passes.

One listener on loopback for both address families. The kernel hands it connections with their own source and
destination, it enforces the two policy slots, and its upstream sockets carry the client's address and
a mark (`original_src`) by which the datapath knows them. Between policy and router nothing touches a request: a client
and a server that Lockgate allows to talk must not notice it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from .access_log import FORMAT, GRPC_CONTENT_TYPE, MISMATCH_KEY, MISMATCH_NAMESPACE
from .connection_limit import connection_limit
from .end import DESTINATION, SOURCE
from .http_routes import ROUTES, Spared, mark_absent_forwarded_proto, routes
from .identity_filter import Ipcache
from .messages import (
    accesslog,
    cluster,
    composite,
    core,
    file_access_log,
    hcm,
    http_router,
    listener,
    matcher,
    preserve_case,
    protobuf,
    route,
    stream_log,
    upstream_http,
)
from .own_address import refuse_own_address
from .policy_shard import sharded_policy
from .policy_slot import COMPOSITE_TYPE_URL, RBAC_TYPE_URL, deny_all, from_ads, policy_source
from .running_stream import REPORT_SECONDS, request_reports
from .transparent_listener import transparent_listener

ORIGINAL_DESTINATION = "lockgate.original_destination"  # the upstream cluster
DENIED_BODY = "Access denied\r\n"
DENIED_MESSAGE = "Access denied"  # of a gRPC status, PERMISSION_DENIED

_NO_TIMEOUT = timedelta(0)
_UNLIMITED = 1_000_000
# What Envoy holds of one stream and of all of a connection while the other end does not take it. Its own 16 and 24 MiB
# would let a hundred connections have the memory of all.
_STREAM_WINDOW, _CONNECTION_WINDOW = 1 << 18, 1 << 21
# Requests of a connection that are answered beside each other: each costs before it is judged, and holds a head.
_STREAMS = 128
# Bytes of a connection that are read before others have their turn, and that wait for an end that takes nothing.
BUFFER = 1 << 18
_NOBODYS_HOPS = (1 << 32) - 1  # more addresses than a header can list
UPSTREAM_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class HttpListener:
    """The HTTP listener's settings. `egress_slot` and `ingress_slot` are what the names of the policy's ECDS resources
    begin with (see policy_shard)."""

    port: int = 15001
    egress_slot: str = "lockgate.http.egress"
    ingress_slot: str = "lockgate.http.ingress"
    first_policy_timeout: float = 15.0  # seconds; the listener stays closed so long, then opens and denies
    mark: int = 0xA00  # SO_MARK of upstream sockets
    upgrades: tuple[str, ...] = ("websocket",)
    max_request_headers_kb: int = 96
    max_headers: int = 256
    connect_timeout: float = 10.0  # seconds to reach the server
    backlog: int = 4096
    connections_per_client: int = 0  # at a time, over all listeners; 0 is any number, and needs no dynamic module
    heap: int = 0  # bytes that Envoy's may have, of which a client has its share when it is short; 0: any number
    # To servers at a time, of each cluster. A server can have each request of HTTP/2 want a connection of its own.
    server_connections: int = _UNLIMITED


def http_listener(settings: HttpListener, access_log: Path, ipcache: Ipcache) -> listener.Listener:
    """The listener; what `access_log.py` says is logged. Its routes come by ADS (see `http_routes`)."""
    policy = [
        sharded_policy(name, end, settings.first_policy_timeout)
        for name, end in ((settings.egress_slot, SOURCE), (settings.ingress_slot, DESTINATION))
    ]
    manager = protobuf.Any.pack(connection_manager(settings, access_log, policy))
    policed = listener.FilterChain(
        name="policed",
        filters=[
            *connection_limit(settings.connections_per_client, settings.heap),
            listener.Filter(name="envoy.filters.network.http_connection_manager", typed_config=manager),
        ],
    )
    chains = [policed, refuse_own_address(settings.port)]
    return transparent_listener("lockgate.http", settings, ipcache, chains, buffer=BUFFER)


def http_routes(settings: HttpListener, egress: Collection[int], ingress: Collection[int]) -> bytes:
    """The serialised RouteConfiguration of the listener, which is the resource `ROUTES`. `egress` and `ingress` are the
    identities that have no policy for Envoy in that direction."""
    spared = (
        Spared(settings.egress_slot, SOURCE, egress),
        Spared(settings.ingress_slot, DESTINATION, ingress),
    )
    return bytes(routes(ORIGINAL_DESTINATION, (settings.egress_slot, settings.ingress_slot), spared))


def original_destination_cluster(settings: HttpListener) -> cluster.Cluster:
    """Connects to where the client wanted to go, in the protocol that the client speaks, from the client's address."""
    options = upstream_http.HttpProtocolOptions(
        common_http_protocol_options=core.HttpProtocolOptions(max_headers_count=settings.max_headers),
        use_downstream_protocol_config=upstream_http.HttpProtocolOptionsUseDownstreamHttpConfig(
            http_protocol_options=http1(),
            http2_protocol_options=http2(),
        ),
    )
    return cluster.Cluster(
        name=ORIGINAL_DESTINATION,
        type=cluster.ClusterDiscoveryType.ORIGINAL_DST,
        lb_policy=cluster.ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=timedelta(seconds=settings.connect_timeout),
        per_connection_buffer_limit_bytes=BUFFER,
        typed_extension_protocol_options={UPSTREAM_OPTIONS: protobuf.Any.pack(options)},
        # The cluster stands for every server of every client here; Envoy's default of 1024 would answer 503. When there
        # are as many connections as may be, a client still has one to each server, and its requests wait for that.
        circuit_breakers=cluster.CircuitBreakers(
            thresholds=[
                cluster.CircuitBreakersThresholds(
                    priority=core.RoutingPriority.DEFAULT,
                    max_connections=settings.server_connections,
                    max_pending_requests=_UNLIMITED,
                    max_requests=_UNLIMITED,
                    max_connection_pools=_UNLIMITED,
                )
            ]
        ),
    )


def http1() -> core.Http1ProtocolOptions:
    """HTTP/1 as the client and the server wrote it."""
    keep_case = core.TypedExtensionConfig(
        name="envoy.http.stateful_header_formatters.preserve_case",
        typed_config=protobuf.Any.pack(preserve_case.PreserveCaseFormatterConfig(forward_reason_phrase=True)),
    )
    return core.Http1ProtocolOptions(
        accept_http_10=True,
        enable_trailers=True,
        header_key_format=core.Http1ProtocolOptionsHeaderKeyFormat(stateful_formatter=keep_case),
    )


def http2() -> core.Http2ProtocolOptions:
    """HTTP/2 in which a malformed message ends its own stream (https://www.rfc-editor.org/rfc/rfc9113#section-8.1.1).
    Envoy would end all the others on the connection with it."""
    return core.Http2ProtocolOptions(
        override_stream_error_on_invalid_http_message=True,
        max_concurrent_streams=_STREAMS,
        initial_stream_window_size=_STREAM_WINDOW,
        initial_connection_window_size=_CONNECTION_WINDOW,
    )


def connection_manager(
    settings: HttpListener,
    access_log: Path,
    policy: Sequence[hcm.HttpFilter],
    upstream: str = "",
    *,
    changes_transport: bool = False,
) -> hcm.HttpConnectionManager:
    """What reads requests, has the filters of the policy judge them and sends those that pass to the cluster
    `upstream`, or, if it is empty, where the routes lead that come by ADS. `changes_transport`: TLS may end or begin
    here, and the scheme of requests with it."""
    # Not scheme_to_overwrite, which also writes X-Forwarded-Proto.
    transformation = core.SchemeHeaderTransformation(match_upstream=True) if changes_transport else None
    return hcm.HttpConnectionManager(
        stat_prefix="lockgate_http",
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        rds=None if upstream else hcm.Rds(from_ads(settings.first_policy_timeout), ROUTES),
        route_config=routes(upstream, [each.name for each in policy]) if upstream else None,
        scheme_header_transformation=transformation,
        http_filters=[
            *policy,
            # suppress_envoy_headers: neither adds x-envoy-* nor obeys what a client writes into them.
            hcm.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=protobuf.Any.pack(http_router.Router(suppress_envoy_headers=True)),
            ),
        ],
        common_http_protocol_options=core.HttpProtocolOptions(max_headers_count=settings.max_headers),
        http_protocol_options=http1(),
        http2_protocol_options=http2(),
        max_request_headers_kb=settings.max_request_headers_kb,
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        # Not to use the remote address is what leaves X-Forwarded-* alone. Nobody is internal: Envoy would obey what
        # that client writes into x-envoy-*, retries and statistics of its own among them. Of no range at all Envoy
        # makes the private ones, so there is one that no connection comes from; and the connection's address counts,
        # as nobody is behind so many proxies that one in X-Forwarded-For would. Policies ask who connects.
        use_remote_address=False,
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(
            cidr_ranges=[core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)]
        ),
        xff_num_trusted_hops=_NOBODYS_HOPS,
        early_header_mutation_extensions=[mark_absent_forwarded_proto()],
        skip_xff_append=True,
        generate_request_id=False,
        preserve_external_request_id=True,
        forward_client_cert_details=hcm.HttpConnectionManagerForwardClientCertDetails.ALWAYS_FORWARD_ONLY,
        # Between the two GOAWAYs of an Envoy that is being replaced; its clients are on the same machine.
        drain_timeout=timedelta(seconds=1),
        stream_idle_timeout=_NO_TIMEOUT,
        request_timeout=_NO_TIMEOUT,
        upgrade_configs=[hcm.HttpConnectionManagerUpgradeConfig(upgrade_type=name) for name in settings.upgrades],
        # A path rule must judge the path that the server will understand: /a/../b is /b. As the reference does
        # (https://docs.cilium.io/en/stable/cmdref/cilium-agent/, http-normalize-path), but for an escaped slash: there
        # the client is redirected (307) to the path with a slash, which is another resource to a server that takes %2F
        # for part of a name, and before any policy was asked. A plain 400 says that such a path cannot be judged.
        # policies/http_path.py says the same for the verdict function.
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        local_reply_config=_access_denied(),
        access_log=[_policy_log(access_log), request_reports()],
        access_log_options=hcm.HttpConnectionManagerHcmAccessLogOptions(
            access_log_flush_interval=timedelta(seconds=REPORT_SECONDS)
        ),
    )


def policy_slots(name: str, first_policy_timeout: float) -> list[hcm.HttpFilter]:
    """One direction undivided: the verdict, then what the policy does to the headers of what it allows (until told,
    nothing)."""
    return [
        hcm.HttpFilter(name=slot, config_discovery=policy_source(default, first_policy_timeout, type_url))
        for slot, type_url, default in (
            (name, RBAC_TYPE_URL, deny_all()),
            (f"{name}.headers", COMPOSITE_TYPE_URL, composite.Composite()),
        )
    ]


def _access_denied() -> hcm.LocalReplyConfig:
    # Envoy turns a 403 to a gRPC request into that status with the body as its message, where no line ends.
    forbidden = accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(
            comparison=accesslog.ComparisonFilter(
                value=core.RuntimeUInt32(default_value=403, runtime_key="lockgate.denied_status")
            )
        )
    )
    denied = accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=[forbidden, _without_route()]))
    grpc = accesslog.AccessLogFilter(
        header_filter=accesslog.HeaderFilter(
            header=route.HeaderMatcher(
                name="content-type",
                string_match=matcher.StringMatcher(safe_regex=matcher.RegexMatcher(regex=GRPC_CONTENT_TYPE)),
            )
        )
    )
    both = accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=[denied, grpc]))
    return hcm.LocalReplyConfig(mappers=[_reply(both, DENIED_MESSAGE), _reply(denied, DENIED_BODY)])


def _reply(to: accesslog.AccessLogFilter, body: str) -> hcm.ResponseMapper:
    return hcm.ResponseMapper(
        filter=to,
        status_code=403,
        body=core.DataSource(inline_string=body),
        body_format_override=core.SubstitutionFormatString(
            text_format_source=core.DataSource(inline_string="%LOCAL_REPLY_BODY%")
        ),
    )


def _without_route() -> accesslog.AccessLogFilter:
    """What the policies allow while no route table has come: there is a route for every request in it."""
    return accesslog.AccessLogFilter(response_flag_filter=accesslog.ResponseFlagFilter(flags=["NR"]))


def _policy_log(path: Path) -> accesslog.AccessLog:
    # By what the policy filters concluded and not by status: a server's own 403 is no denial of ours, and a denied gRPC
    # call is answered 200.
    denied = matcher.ValueMatcher(string_match=matcher.StringMatcher(exact="denied"))
    listed = matcher.ValueMatcher(present_match=True)
    told = accesslog.OrFilter(
        filters=[
            _metadata_filter("envoy.filters.http.rbac", "enforced_engine_result", denied),
            _metadata_filter(MISMATCH_NAMESPACE, MISMATCH_KEY, listed),
            _without_route(),
        ]
    )
    ended = accesslog.LogTypeFilter(types=[stream_log.AccessLogType.DownstreamEnd])
    once = accesslog.AndFilter(
        filters=[accesslog.AccessLogFilter(log_type_filter=ended), accesslog.AccessLogFilter(or_filter=told)]
    )
    return accesslog.AccessLog(
        name="envoy.access_loggers.file",
        filter=accesslog.AccessLogFilter(and_filter=once),
        typed_config=protobuf.Any.pack(
            file_access_log.FileAccessLog(
                path=str(path),
                log_format=core.SubstitutionFormatString(json_format=protobuf.Struct.from_dict(dict(FORMAT))),
            )
        ),
    )


def _metadata_filter(namespace: str, key: str, value: matcher.ValueMatcher) -> accesslog.AccessLogFilter:
    wanted = matcher.MetadataMatcher(filter=namespace, path=[matcher.MetadataMatcherPathSegment(key=key)], value=value)
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=wanted, match_if_key_not_found=False)
    )
