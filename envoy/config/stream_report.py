"""What is read of Envoy's reports of what runs: the fields that say who asked what, with text as bytes.

A report repeats what clients say of themselves (X-Request-Id, names in certificates), and Envoy does not make all of it
UTF-8. A parser of the whole message refuses such a report, and with it what it says of others. Numbers and names:
https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/data/accesslog/v3/accesslog.proto
https://www.envoyproxy.io/docs/envoy/v1.40.0/api-v3/service/accesslog/v3/als.proto
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto2

from .messages import core

_BYTES, _MESSAGE, _MAP, _STRING = (
    betterproto2.TYPE_BYTES,
    betterproto2.TYPE_MESSAGE,
    betterproto2.TYPE_MAP,
    betterproto2.TYPE_STRING,
)


@dataclass(eq=False, repr=False)
class Packed(betterproto2.Message):
    """google.protobuf.Any."""

    value: bytes = betterproto2.field(2, _BYTES)


@dataclass(eq=False, repr=False)
class Text(betterproto2.Message):
    """google.protobuf.StringValue."""

    value: bytes = betterproto2.field(1, _BYTES)


@dataclass(eq=False, repr=False)
class Tls(betterproto2.Message):
    """TLSProperties."""

    tls_sni_hostname: bytes = betterproto2.field(3, _BYTES)


@dataclass(eq=False, repr=False)
class Common(betterproto2.Message):
    """AccessLogCommon."""

    downstream_local_address: core.Address | None = betterproto2.field(3, _MESSAGE, optional=True)
    tls_properties: Tls | None = betterproto2.field(4, _MESSAGE, optional=True)
    downstream_direct_remote_address: core.Address | None = betterproto2.field(20, _MESSAGE, optional=True)
    filter_state_objects: dict[str, Packed] = betterproto2.field(
        21, _MAP, map_meta=betterproto2.map_meta(_STRING, _MESSAGE)
    )


@dataclass(eq=False, repr=False)
class Request(betterproto2.Message):
    """HTTPRequestProperties."""

    authority: bytes = betterproto2.field(3, _BYTES)
    path: bytes = betterproto2.field(5, _BYTES)
    request_headers: dict[str, bytes] = betterproto2.field(13, _MAP, map_meta=betterproto2.map_meta(_STRING, _BYTES))


@dataclass(eq=False, repr=False)
class Entry(betterproto2.Message):
    """HTTPAccessLogEntry, or TCPAccessLogEntry, which has no request."""

    common_properties: Common | None = betterproto2.field(1, _MESSAGE, optional=True)
    request: Request | None = betterproto2.field(3, _MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class Entries(betterproto2.Message):
    """HTTPAccessLogEntries or TCPAccessLogEntries."""

    log_entry: list[Entry] = betterproto2.field(1, _MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class Report(betterproto2.Message):
    """StreamAccessLogsMessage."""

    http_logs: Entries | None = betterproto2.field(2, _MESSAGE, optional=True)
    tcp_logs: Entries | None = betterproto2.field(3, _MESSAGE, optional=True)
