"""What a client sends over a connection to be judged, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from lockgate.policies.interception import Greeting

CLOSED = 0  # the status of a connection, or of a request of HTTP/2, that ends without an answer

# How a denial is told to gRPC: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_GRPC_STATUS = {"7": 403, "13": 400}

Fields: TypeAlias = Sequence[tuple[str, str]]


class Wire(StrEnum):
    """How a client speaks. In TLS it offers (ALPN) what it can; without, HTTP/2 begins with prior knowledge."""

    HTTP1 = "http1"  # offers nothing
    HTTP2 = "http2"
    EITHER = "either"  # HTTP/2 where that is chosen

    @property
    def offers(self) -> tuple[str, ...]:
        """The protocols in its ClientHello."""
        return {Wire.HTTP1: (), Wire.HTTP2: (H2,), Wire.EITHER: (H2, H1)}[self]

    def speaks(self, chosen: str | None) -> str:
        """What it then speaks."""
        return H2 if self is Wire.HTTP2 or chosen == H2 else H1


H1, H2 = "http/1.1", "h2"  # https://www.iana.org/assignments/tls-extensiontype-values/


def cookie_of(crumbs: Sequence[str]) -> dict[str, str]:
    """HTTP/2's fields of the name cookie are parts of one: https://www.rfc-editor.org/rfc/rfc9113#section-8.2.3. Envoy
    leaves empty ones at the front out, and has none where nothing is left."""
    joined = ""
    for crumb in crumbs:
        joined = f"{joined}; {crumb}" if joined else crumb
    return {"cookie": joined} if joined else {}


class Arrived(NamedTuple):
    """A request as a server gets it: H1 or H2, the scheme (of HTTP/2 alone), "METHOD PATH", and the headers with the
    host among them."""

    protocol: str
    scheme: str
    line: str
    fields: Fields


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire; `headers` in order, repeated ones several times. `greeting` is how the
    connection begins."""

    method: str
    path: str
    host: str
    headers: Fields
    greeting: Greeting
    wire: Wire

    def encode(self) -> bytes:
        """HTTP/1.1, without a body."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """`arrived` is the request that reached the server, and `began` how its connection did; None when none did. `grpc`
    is the message of a gRPC status, whose meaning in HTTP is then `status`.

    `shown` is whose certificate the client saw (tls.py), and `chosen` the protocol that its peer chose; empty without.
    """

    status: int
    body: str = ""
    grpc: str | None = None
    arrived: Arrived | None = None
    began: Greeting | None = None
    shown: str = ""
    chosen: str = ""

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """What an answer means; `headers` with what trailed."""
        arrived = began = None
        if "x-echo" in headers:
            protocol, scheme, line, fields, greeting = json.loads(headers["x-echo"])
            arrived = Arrived(protocol, scheme, line, tuple((name, value) for name, value in fields))
            began = Greeting(*greeting)
        message = None
        if "grpc-status" in headers:
            status, message = _GRPC_STATUS.get(headers["grpc-status"], status), headers.get("grpc-message", "")
        return cls(status, body.decode("latin-1"), message, arrived, began)


def echoed(arrived: Arrived, began: Greeting) -> str:
    """The header x-echo by which a server tells what it got."""
    return json.dumps([*arrived, began])


async def ask_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Sent) -> Answer:
    """Over a new connection. Raises EOFError when it ends before an answer."""
    writer.write(request.encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    length = 0 if request.method == "HEAD" else int(headers.get("content-length", 0))
    return Answer.of(int(head[0].split()[1]), headers, await reader.readexactly(length))
