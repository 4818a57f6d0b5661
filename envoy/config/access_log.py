"""The log of requests that a policy denied, or asked to be told of (a header match with LOG): one JSON line each.

Written by Envoy into the run dir. No other request is logged, because that would cost a fifth of the throughput.
`FORMAT` is what the bootstrap asks Envoy to write and `parse` reads it back; `Rotation` keeps the file bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .end import DESTINATION, SOURCE, identity_of

FILE_NAME = "requests.jsonl"
# Metadata in which the policy's filters leave LOG's rules.
MISMATCH_NAMESPACE, MISMATCH_KEY = "lockgate.mismatch", "rules"

# Command operators: https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage
FORMAT: Mapping[str, str] = MappingProxyType(
    {
        "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6f+00:00)%",
        "source": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
        "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
        "source_identity": f"%FILTER_STATE({SOURCE}:PLAIN)%",
        "destination_identity": f"%FILTER_STATE({DESTINATION}:PLAIN)%",
        "method": "%REQ(:METHOD):64%",
        "path": "%REQ(:PATH):1024%",
        "host": "%REQ(:AUTHORITY):256%",
        "code": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "protocol": "%PROTOCOL%",
        "content_type": "%REQ(CONTENT-TYPE):64%",
        "mismatches": f"%DYNAMIC_METADATA({MISMATCH_NAMESPACE}:{MISMATCH_KEY})%",
    }
)

# Of a connection that was refused before any request in it could be read: "host" is the server name of its greeting.
CONNECTION_FORMAT: Mapping[str, str] = MappingProxyType(
    {
        **FORMAT,
        "method": "-",
        "path": "-",
        "host": "%REQUESTED_SERVER_NAME%",
        "details": "%CONNECTION_TERMINATION_DETAILS%",
        "protocol": "TLS",
        "content_type": "-",
    }
)

# What Envoy takes for a gRPC request (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, Content-Type).
GRPC_CONTENT_TYPE = r"application/grpc(\+.*)?"
# A line of the module's Kafka filter (envoy/module/kafka/denial_log.rs) has the keys of FORMAT: "method" is the API,
# "path" the refused topics, "host" the client's id, "code" the error's, and "kafka" all of that again. That is null for
# a connection that was ended, and then "details" says why.
KAFKA = "kafka"

NO_ROUTES = "lockgate:no-routes-received"  # stands for the rule where Envoy has no routes yet
# Stands for the rule, with one word more, where a client may not have greeted once more (envoy/module/greeting).
GREETING = "lockgate:greeting:"
_WITHOUT_ROUTE = "route_not_found"
# Envoy writes spaces of the action's name as underscores.
_DETAILS = re.compile(r"rbac_access_denied_matched_policy\[(?P<rule>.*)\]\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SocketEnd:
    """An address and a port as Envoy prints them: 10.0.0.1:80 or [fd00::1]:80."""

    ip: IPv4Address | IPv6Address
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class LoggedKafka:
    """A Kafka request that the policy refused. `api` is its name (or number, when it is not known); `topics` are those
    that were refused."""

    api: str
    version: int
    client_id: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A request that the policy refused, or that has a header its policy logs.

    `rule` is the name of the RBAC action that refused it, or NO_ROUTES, or one that begins with GREETING, or empty when
    it passed or Envoy gave none.
    `mismatches` are a rule's name and a header's, with a blank between, for each header match that was logged.
    `method`, `path` and `host` are None when the request had none, and cut to 64, 1024 and 256 bytes. The identities
    are those of the two ends when the connection was made; 0 when Envoy does not know them.
    """

    time: datetime
    source: SocketEnd
    destination: SocketEnd
    method: str | None
    path: str | None
    host: str | None
    code: int
    rule: str
    details: str
    protocol: str
    source_identity: int
    destination_identity: int
    mismatches: tuple[str, ...] = ()
    kafka: LoggedKafka | None = None
    content_type: str | None = None

    @property
    def grpc_method(self) -> str:
        """package.Service/Method of a gRPC call; empty for any other request."""
        is_grpc = re.fullmatch(GRPC_CONTENT_TYPE, self.content_type or "") is not None
        return (self.path or "").removeprefix("/") if is_grpc else ""


def parse(line: str | bytes) -> LoggedRequest:
    """Read one line. Raises ValueError when it is not one of ours, for example the half line of a full disk."""
    record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("a line of the access log is not a JSON object")
    try:
        details = str(record["details"] or "")
        return LoggedRequest(
            time=datetime.fromisoformat(record["time"]),
            source=_socket_end(record["source"]),
            destination=_socket_end(record["destination"]),
            method=record["method"],
            path=record["path"],
            host=record["host"],
            code=int(record["code"]),
            rule=_rule(details),
            details=details,
            protocol=str(record["protocol"]),
            source_identity=_identity(record["source_identity"]),
            destination_identity=_identity(record["destination_identity"]),
            mismatches=tuple(map(str, record["mismatches"] or ())),
            content_type=record.get("content_type"),
            kafka=_kafka(record.get(KAFKA)),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"a line of the access log lacks or garbles {error}") from error


def _rule(details: str) -> str:
    if details == _WITHOUT_ROUTE:
        return NO_ROUTES
    if details.startswith(GREETING):
        return details
    found = _DETAILS.search(details)
    return "" if found is None or found["rule"] == "none" else found["rule"]


def _identity(end: str | int | None) -> int:
    """Of an end as Envoy prints it, or of a number, which the module's own lines have. 0 for one that is nobody's."""
    identity = identity_of(str(end))
    return int(identity) if identity.isdecimal() else 0


def _kafka(record: Any) -> LoggedKafka | None:
    if record is None:
        return None
    return LoggedKafka(
        api=str(record["api"]),
        version=int(record["version"]),
        client_id=str(record["client_id"]),
        topics=tuple(map(str, record["topics"])),
    )


def _socket_end(text: str) -> SocketEnd:
    address, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"{text!r} in the access log is not an address and port")
    return SocketEnd(ip_address(address.removeprefix("[").removesuffix("]")), int(port))


@dataclass(frozen=True, slots=True)
class Rotation:
    """Keeps the log under `(keep + 1) * limit` bytes: FILE is renamed FILE.1, FILE.1 to FILE.2 ... FILE.`keep`.

    Envoy keeps writing into the renamed file until it is told to open its logs anew, so that no line is lost: call
    `rotate` and, when it says True, `Admin.reopen_logs`.
    """

    limit: int = 16 * 1024 * 1024
    keep: int = 2

    def due(self, size: int) -> bool:
        """True when a file of `size` bytes should be rotated."""
        return size >= self.limit

    def rotate(self, path: Path) -> bool:
        """Rotate `path` when it is due; False when it was not (or does not exist)."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return False
        if not self.due(size):
            return False
        for number in range(self.keep, 0, -1):
            older = self._numbered(path, number)
            newer = path if number == 1 else self._numbered(path, number - 1)
            if newer.exists():
                newer.replace(older)
        return True

    @staticmethod
    def _numbered(path: Path, number: int) -> Path:
        return path.with_name(f"{path.name}.{number}")
