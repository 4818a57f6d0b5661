"""The bootstrap that Envoy starts with. Pure: settings in, bytes out.

Everything static is here: where the admin interface and the xDS server are, the listeners (one module per protocol,
see `http_listener`), and limits. Policies come over xDS and never change a listener.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from ..errors import BootstrapError
from ..running.run_files import ADMIN_SOCKET, XDS_SOCKET
from .access_log import FILE_NAME as ACCESS_LOG
from .http_listener import HttpListener, http_listener, original_destination_cluster
from .identity_filter import Ipcache
from .messages import boot, cluster, connection_monitor, core, endpoint, heap_monitor, overload, protobuf, upstream_http
from .policy_slot import XDS_CLUSTER, from_ads

REGEX_PROGRAM_SIZE = 1_000_000
# Requests of one connection that are served before others have their turn. Envoy would serve all that have come.
_REQUESTS_IN_TURN = 16

LONGEST_SOCKET_PATH = 107  # sockaddr_un.sun_path less its final NUL
UPSTREAM_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


MOST_CONNECTIONS = 100_000
_OTHER_DESCRIPTORS = 256  # files, listeners, its own conversations


def connections_with(descriptors: int) -> int:
    """How many connections of clients an Envoy may carry that may have so many descriptors (negative: any number), and
    as many to servers, besides one for each client's that it always may have. One that has no descriptor left tries to
    accept again and again, as fast as it can, or hangs when it wants one to a server."""
    return (
        MOST_CONNECTIONS if descriptors < 0 else max(1, min(MOST_CONNECTIONS, (descriptors - _OTHER_DESCRIPTORS) // 3))
    )


def connections_of_one(wanted: int, of_all: int) -> int:
    """How many of those connections one address may have; `wanted` is what it may at most, 0: any number. A quarter, as
    a pod may have an address of each family, which leaves half to others."""
    return min(wanted, max(1, of_all // 4))


@dataclass(frozen=True, slots=True)
class BootstrapSettings:
    """What differs between nodes. Sockets and logs live in `run_dir`, which must be absolute."""

    run_dir: Path
    node_id: str
    ipcache: Ipcache
    node_cluster: str = "lockgate"
    http: HttpListener = field(default_factory=HttpListener)
    max_connections: int = MOST_CONNECTIONS  # downstream, all listeners together
    max_heap: int = 0  # bytes; near them Envoy first ends keep-alive, then refuses what is new; 0 is no limit
    regex_program_size: int = REGEX_PROGRAM_SIZE  # the default refuses ten ordinary path patterns joined by |

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface."""
        return self.run_dir / ADMIN_SOCKET

    @property
    def xds_socket(self) -> Path:
        """Where the agent serves xDS."""
        return self.run_dir / XDS_SOCKET

    @property
    def access_log(self) -> Path:
        """Requests that a policy denied or logged, one JSON object a line."""
        return self.run_dir / ACCESS_LOG


def bootstrap(settings: BootstrapSettings) -> bytes:
    """The bootstrap as binary protobuf (`envoy -c FILE.pb`); equal settings give equal bytes.

    Raises `BootstrapError` for settings with which Envoy could never start.
    """
    _check(settings)
    message = boot.Bootstrap(
        node=core.Node(id=settings.node_id, cluster=settings.node_cluster),
        admin=boot.Admin(address=core.Address(pipe=core.Pipe(path=str(settings.admin_socket), mode=0o600))),
        static_resources=boot.BootstrapStaticResources(
            listeners=[http_listener(settings.http, settings.access_log, settings.ipcache)],
            clusters=[_xds_cluster(settings.xds_socket), original_destination_cluster(settings.http)],
        ),
        dynamic_resources=boot.BootstrapDynamicResources(
            ads_config=ads(),
            # The listeners for TLS come by xDS (see tls_listener), and its clusters (see originating_cluster).
            cds_config=from_ads(settings.http.first_policy_timeout),
            lds_config=from_ads(settings.http.first_policy_timeout),
        ),
        layered_runtime=runtime(settings.regex_program_size),
        overload_manager=_overload(settings),
        # Without a sink the periodic flush would only burn time; /stats flushes when it is read.
        stats_flush_on_admin=True,
    )
    return bytes(message)


def _check(settings: BootstrapSettings) -> None:
    if not settings.run_dir.is_absolute():
        raise BootstrapError(f"the run dir {settings.run_dir} is not absolute; give it from /")
    for path in (settings.admin_socket, settings.xds_socket):
        if len(str(path).encode()) > LONGEST_SOCKET_PATH:
            raise BootstrapError(
                f"the socket {path} has a path of more than {LONGEST_SOCKET_PATH} bytes; give a shorter run dir"
            )
    if not settings.node_id:
        raise BootstrapError("the node has no id; give one (the host name will do)")
    if not 0 < settings.http.port < 65536:
        raise BootstrapError(f"the HTTP listener cannot have port {settings.http.port}; give one from 1 to 65535")


def ads(longest: timedelta = timedelta(seconds=1)) -> core.ApiConfigSource:
    """The one stream to the agent; `longest` is the longest pause between two attempts to connect."""
    # Reconnects quickly: a restarted agent is back within a fraction of a second, and it is on the same machine.
    retry = core.RetryPolicy(
        retry_back_off=core.BackoffStrategy(base_interval=timedelta(milliseconds=100), max_interval=longest)
    )
    return core.ApiConfigSource(
        api_type=core.ApiConfigSourceApiType.DELTA_GRPC,
        transport_api_version=core.ApiVersion.V3,
        # The node lists several hundred extensions; once per stream is enough.
        set_node_on_first_message_only=True,
        grpc_services=[
            core.GrpcService(
                envoy_grpc=core.GrpcServiceEnvoyGrpc(
                    cluster_name=XDS_CLUSTER,
                    retry_policy=retry,
                )
            )
        ],
    )


def _xds_cluster(socket: Path) -> cluster.Cluster:
    options = upstream_http.HttpProtocolOptions(
        explicit_http_config=upstream_http.HttpProtocolOptionsExplicitHttpConfig(
            # grpcio sends more window updates per data frame than Envoy's flood guard takes by default.
            http2_protocol_options=core.Http2ProtocolOptions(
                max_inbound_window_update_frames_per_data_frame_sent=100_000
            )
        )
    )
    return cluster.Cluster(
        name=XDS_CLUSTER,
        type=cluster.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        typed_extension_protocol_options={UPSTREAM_OPTIONS: protobuf.Any.pack(options)},
        load_assignment=endpoint.ClusterLoadAssignment(
            cluster_name=XDS_CLUSTER,
            endpoints=[
                endpoint.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint.LbEndpoint(
                            endpoint=endpoint.Endpoint(address=core.Address(pipe=core.Pipe(path=str(socket))))
                        )
                    ]
                )
            ],
        ),
    )


def runtime(regex_program_size: int = REGEX_PROGRAM_SIZE) -> boot.LayeredRuntime:
    """Envoy's runtime values."""
    values = {
        "re2.max_program_size.error_level": regex_program_size,
        "re2.max_program_size.warn_level": regex_program_size,
        "http.max_requests_per_io_cycle": _REQUESTS_IN_TURN,
    }
    return boot.LayeredRuntime(
        layers=[boot.RuntimeLayer(name="lockgate", static_layer=protobuf.Struct.from_dict(values))]
    )


# What happens as the heap fills: first memory is given back and the HTTP/2 streams that hold most of it are reset, then
# connections are not kept, and at last neither connections nor requests are taken. Those that run go on. Each by its
# share of max_heap. https://www.envoyproxy.io/docs/envoy/latest/configuration/operations/overload_manager/overload_manager
_AT_HEAP = {
    "envoy.overload_actions.shrink_heap": 0.85,
    "envoy.overload_actions.disable_http_keepalive": 0.9,
    "envoy.overload_actions.stop_accepting_connections": 0.95,
    "envoy.overload_actions.stop_accepting_requests": 0.98,
}
# The more, the nearer to the second.
_RESET_STREAMS, _RESET_FROM, _RESET_MOST = "envoy.overload_actions.reset_high_memory_stream", 0.8, 0.9
_LEAST_TRACKED = 16  # as a power of two: streams that hold fewer bytes are never reset
_HEAP = "envoy.resource_monitors.fixed_heap"


def _overload(settings: BootstrapSettings) -> overload.OverloadManager:
    limit = connection_monitor.DownstreamConnectionsConfig(max_active_downstream_connections=settings.max_connections)
    monitors = [
        overload.ResourceMonitor(
            name="envoy.resource_monitors.global_downstream_max_connections", typed_config=protobuf.Any.pack(limit)
        )
    ]
    if not settings.max_heap:
        return overload.OverloadManager(resource_monitors=monitors)
    heap = heap_monitor.FixedHeapConfig(max_heap_size_bytes=settings.max_heap)
    return overload.OverloadManager(
        refresh_interval=timedelta(milliseconds=50),
        resource_monitors=[*monitors, overload.ResourceMonitor(name=_HEAP, typed_config=protobuf.Any.pack(heap))],
        actions=[
            *(
                overload.OverloadAction(
                    name=action,
                    triggers=[overload.Trigger(name=_HEAP, threshold=overload.ThresholdTrigger(value=share))],
                )
                for action, share in _AT_HEAP.items()
            ),
            overload.OverloadAction(
                name=_RESET_STREAMS,
                triggers=[
                    overload.Trigger(
                        name=_HEAP,
                        scaled=overload.ScaledTrigger(scaling_threshold=_RESET_FROM, saturation_threshold=_RESET_MOST),
                    )
                ],
            ),
        ],
        buffer_factory_config=overload.BufferFactoryConfig(minimum_account_to_track_power_of_two=_LEAST_TRACKED),
    )


__all__ = ["BootstrapSettings", "HttpListener", "bootstrap"]
