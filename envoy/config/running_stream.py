"""What was judged once and still runs: Envoy reports it to the agent again and again while it lasts.

Policies judge a request, or the greeting of a connection of which only bytes are carried, when it begins. A WebSocket,
a gRPC stream or a long download can outlive the rule that let it in, so whoever brings policies into force must hear of
it. Envoy's gRPC access logger tells of streams only once they are older than `REPORT_SECONDS`, keeps a bounded buffer,
and drops reports while nobody listens.
https://www.envoyproxy.io/docs/envoy/latest/api-v3/service/accesslog/v3/als.proto
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address

import grpc
import grpc.aio
from betterproto2 import Message

from ...policies.request import HttpRequest, TlsRequest
from .access_log import SocketEnd
from .end import SOURCE, identity_of
from .messages import (
    accesslog,
    core,
    filter_state,
    grpc_access_log,
    listener,
    protobuf,
    set_filter_state,
    stream_log,
)
from .policy_slot import XDS_CLUSTER
from .stream_report import Common, Entries, Entry, Report, Text

REPORT_SECONDS = 3.0  # at the latest so long after a change a stream that it forbids is known
_FLUSH_SECONDS = 0.2
# Filter state: the server name that the client called, and of a connection that was taken up the chain that did it and
# how the client began, TLS or not.
_GREETING, _CHAIN, TRANSPORT = "lockgate.greeting", "lockgate.chain", "lockgate.transport"
WAS_TLS, WAS_PLAIN = "tls", "plain"
_METHOD = ":method"  # request_method is an enumeration, and a method may be any word


@dataclass(frozen=True, slots=True)
class RunningStream:
    """One request, or one connection of bytes by its greeting, and the ends of the connection. Headers are not known.
    `chain` is the filter chain that has taken up a connection of bytes, empty for TLS that is carried end to end.
    `made_by` is the client's identity as the identity filter left it, 0 where there is none."""

    source: SocketEnd
    destination: SocketEnd
    request: HttpRequest | TlsRequest
    chain: str = ""
    made_by: int = 0


Listener = Callable[[tuple[RunningStream, ...]], Awaitable[None]]


def request_reports() -> accesslog.AccessLog:
    """The access log of a connection manager that reports running requests to the agent."""
    config = grpc_access_log.HttpGrpcAccessLogConfig(
        common_config=_reports(), additional_request_headers_to_log=[_METHOD]
    )
    return _log("http_grpc", stream_log.AccessLogType.DownstreamPeriodic, config)


def greeting_reports(chain: str = "") -> tuple[listener.Filter, accesslog.AccessLog]:
    """The same for connections that a TCP proxy carries after their greeting: a filter to be put in front of the proxy,
    and the proxy's access log. `chain` as of RunningStream; there another filter leaves TRANSPORT."""
    values = [kept(_GREETING, "%REQUESTED_SERVER_NAME%")] + ([kept(_CHAIN, chain)] if chain else [])
    config = grpc_access_log.TcpGrpcAccessLogConfig(common_config=_reports([_GREETING, _CHAIN, TRANSPORT]))
    return set_state(values), _log("tcp_grpc", stream_log.AccessLogType.TcpPeriodic, config)


def kept(key: str, value: str) -> filter_state.FilterStateValue:
    """Filter state of text; `value` may have Envoy's command operators in it."""
    text = core.SubstitutionFormatString(
        text_format_source=core.DataSource(inline_string=value), omit_empty_values=True
    )
    return filter_state.FilterStateValue(object_key=key, factory_key="envoy.string", format_string=text)


def set_state(values: list[filter_state.FilterStateValue]) -> listener.Filter:
    """A network filter that leaves filter state with each connection."""
    return listener.Filter(
        name="envoy.filters.network.set_filter_state",
        typed_config=protobuf.Any.pack(set_filter_state.Config(on_new_connection=values)),
    )


def _reports(more: Sequence[str] = ()) -> grpc_access_log.CommonGrpcAccessLogConfig:
    return grpc_access_log.CommonGrpcAccessLogConfig(
        log_name="running",
        grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=XDS_CLUSTER)),
        transport_api_version=core.ApiVersion.V3,
        buffer_flush_interval=timedelta(seconds=_FLUSH_SECONDS),
        filter_state_objects_to_log=[SOURCE, *more],
    )


def _log(logger: str, when: stream_log.AccessLogType, config: Message) -> accesslog.AccessLog:
    periodic = accesslog.LogTypeFilter(types=[when])
    return accesslog.AccessLog(
        name=f"envoy.access_loggers.{logger}",
        filter=accesslog.AccessLogFilter(log_type_filter=periodic),
        typed_config=protobuf.Any.pack(config),
    )


def report_handler(told: Listener) -> grpc.GenericRpcHandler:
    """The service that Envoys of this machine report to; `told` is called with what each message holds."""

    async def receive(_requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        if not context.peer().startswith("unix:"):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "reports are taken from this machine only")
        try:
            while isinstance(message := await context.read(), bytes):
                await told(running_streams(message))
        except ValueError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    method = grpc.stream_unary_rpc_method_handler(receive)
    return grpc.method_handlers_generic_handler(
        "envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": method}
    )


def running_streams(message: bytes) -> tuple[RunningStream, ...]:
    """What a StreamAccessLogsMessage holds, without entries that lack an end; what is no text in it is replaced. Raises
    ValueError for other bytes."""
    try:
        logs = Report.parse(message)
    except EOFError as error:
        raise ValueError(f"a report of what runs is cut off: {error}") from error
    requests, greetings = logs.http_logs or Entries(), logs.tcp_logs or Entries()
    said = [(entry.common_properties, _request(entry)) for entry in requests.log_entry]
    carried = [(entry.common_properties, _greeting(entry)) for entry in greetings.log_entry]
    return tuple(_streams([*said, *carried]))


def _streams(
    entries: Iterable[tuple[Common | None, HttpRequest | TlsRequest | None]],
) -> Iterator[RunningStream]:
    for common, request in entries:
        if common is None or request is None:
            continue
        source, destination = _end(common.downstream_direct_remote_address), _end(common.downstream_local_address)
        if source is not None and destination is not None:
            made_by = identity_of(_state(common, SOURCE))
            number = int(made_by) if made_by.isdecimal() else 0
            yield RunningStream(source, destination, request, _state(common, _CHAIN), number)


def _request(entry: Entry) -> HttpRequest | None:
    request, common = entry.request, entry.common_properties
    if request is None or common is None:
        return None
    tls = common.tls_properties  # of TLS that Envoy has taken away
    return HttpRequest(
        _text(request.request_headers.get(_METHOD, b"")),
        _text(request.path),
        _text(request.authority),
        server_name=_text(tls.tls_sni_hostname).lower() if tls is not None else "",
        encrypted=tls is not None,
    )


def _greeting(entry: Entry) -> TlsRequest | None:
    common = entry.common_properties
    if common is None:
        return None
    return TlsRequest(_state(common, _GREETING), encrypted=_state(common, TRANSPORT) != WAS_PLAIN)


def _state(common: Common, key: str) -> str:
    left = common.filter_state_objects.get(key)
    return _text(Text.parse(left.value).value) if left is not None else ""


def _text(said: bytes) -> str:
    return said.decode(errors="replace")


def _end(address: core.Address | None) -> SocketEnd | None:
    at = address.socket_address if address is not None else None
    if at is None or not at.port_value:
        return None
    return SocketEnd(ip_address(at.address), at.port_value)
