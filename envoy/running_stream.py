"""Requests whose answers still run: Envoy reports each of them to the agent again and again while it lasts.

Policies judge a request when it begins. A WebSocket, a gRPC stream or a long download can outlive the rule that let it
in, so whoever brings policies into force must hear of it. Envoy's gRPC access logger tells of streams only once they
are older than `REPORT_SECONDS`, keeps a bounded buffer, and drops reports while nobody listens.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/accesslog/v3/als.proto
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

import grpc
import grpc.aio

from .access_log import SocketEnd
from .messages import access_log_service, accesslog, core, grpc_access_log, protobuf, stream_log

REPORT_SECONDS = 3.0  # at the latest so long after a change a stream that it forbids is known
_FLUSH_SECONDS = 0.2
_METHOD = ":method"  # request_method is an enumeration, and a method may be any word


@dataclass(frozen=True, slots=True)
class RunningStream:
    """One request and the connection that it came in; `server_name` is that of TLS that Envoy has taken away, and
    `encrypted` says that there was TLS at all. Headers are not known."""

    source: SocketEnd
    destination: SocketEnd
    method: str
    path: str
    host: str
    server_name: str = ""
    encrypted: bool = False


Listener = Callable[[tuple[RunningStream, ...]], Awaitable[None]]


def stream_reports(cluster: str) -> accesslog.AccessLog:
    """The access log that reports running streams to the service of `cluster` (static, HTTP/2)."""
    periodic = accesslog.LogTypeFilter(types=[stream_log.AccessLogType.DownstreamPeriodic])
    common = grpc_access_log.CommonGrpcAccessLogConfig(
        log_name="running",
        grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=cluster)),
        transport_api_version=core.ApiVersion.V3,
        buffer_flush_interval=timedelta(seconds=_FLUSH_SECONDS),
    )
    return accesslog.AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=accesslog.AccessLogFilter(log_type_filter=periodic),
        typed_config=protobuf.Any.pack(
            grpc_access_log.HttpGrpcAccessLogConfig(common_config=common, additional_request_headers_to_log=[_METHOD])
        ),
    )


def report_handler(listener: Listener) -> grpc.GenericRpcHandler:
    """The service that Envoys of this machine report to; `listener` is called with what each message holds."""

    async def receive(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if not context.peer().startswith("unix:"):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "reports are taken from this machine only")
        try:
            while isinstance(message := await context.read(), bytes):
                await listener(running_streams(message))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    method = grpc.stream_unary_rpc_method_handler(receive)
    return grpc.method_handlers_generic_handler(
        "envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": method}
    )


def running_streams(message: bytes) -> tuple[RunningStream, ...]:
    """What a StreamAccessLogsMessage holds, without entries that lack an end. Raises ValueError for other bytes."""
    try:
        logs = access_log_service.StreamAccessLogsMessage.parse(message).http_logs
    except EOFError as error:
        raise ValueError(f"a report of running streams is cut off: {error}") from error
    return tuple(found for entry in (logs.log_entry if logs else ()) if (found := _read(entry)) is not None)


def _read(entry: stream_log.HttpAccessLogEntry) -> RunningStream | None:
    common, request = entry.common_properties, entry.request
    if common is None or request is None:
        return None
    source, destination = _end(common.downstream_direct_remote_address), _end(common.downstream_local_address)
    if source is None or destination is None:
        return None
    tls = common.tls_properties
    return RunningStream(
        source,
        destination,
        request.request_headers.get(_METHOD, ""),
        request.path,
        request.authority,
        tls.tls_sni_hostname.lower() if tls is not None else "",
        encrypted=tls is not None,
    )


def _end(address: core.Address | None) -> SocketEnd | None:
    at = address.socket_address if address is not None else None
    if at is None or not at.port_value:
        return None
    return SocketEnd(ip_address(at.address), at.port_value)
