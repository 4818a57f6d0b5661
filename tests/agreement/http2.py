"""HTTP/2 at both ends of Envoy (https://www.rfc-editor.org/rfc/rfc9113), one request to a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, ResponseReceived, StreamEnded, StreamReset, TrailersReceived
from h2.exceptions import ProtocolError
from lockgate.policies.interception import Greeting
from lockgate.tests.agreement.exchange import H2, Answer, Arrived, Sent, echoed

PREFACE = b"PRI"  # how every connection begins, and no request of HTTP/1

# Nothing is made nice on its way out, or refused on its way in.
_CLIENT = H2Configuration(
    client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
)
_SERVER = H2Configuration(
    client_side=False, header_encoding="utf-8", validate_inbound_headers=False, normalize_inbound_headers=False
)


class StreamRefusedError(Exception):
    """The request has ended without an answer, and its connection has not."""


def client_fields(request: Sent) -> list[tuple[str, str]]:
    """The request's headers, with those that stand for the first line in front."""
    pseudo = {
        ":method": request.method,
        ":scheme": "https" if request.greeting.encrypted else "http",
        ":path": request.path,
        **({":authority": request.host} if request.host else {}),
    }
    return [*pseudo.items(), *((name.lower(), value.strip()) for name, value in request.headers)]


async def ask_http2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: Sent) -> Answer:
    """Over a new connection. Raises StreamRefusedError, and ConnectionError when that ends before an answer."""
    connection = H2Connection(_CLIENT)
    connection.initiate_connection()
    connection.send_headers(connection.get_next_available_stream_id(), client_fields(request), end_stream=True)
    headers: dict[str, str] = {}
    body = b""
    while True:
        writer.write(connection.data_to_send())
        data = await reader.read(65536)
        if not data:
            raise ConnectionAbortedError("the connection ended without an answer")
        for event in _events(connection, data):
            match event:
                case ResponseReceived() | TrailersReceived():
                    headers |= _texts(event.headers or ())
                case DataReceived():
                    body += event.data or b""
                case StreamReset():
                    raise StreamRefusedError(f"the request was reset ({event.error_code})")
                case StreamEnded():
                    return Answer.of(int(headers[":status"]), headers, body)


class Http2Echo:
    """The server's side: give it what arrives (`received`), and send what it gives back."""

    def __init__(self, began: Greeting) -> None:
        self._began = began
        self._connection = H2Connection(_SERVER)
        self._connection.initiate_connection()
        self.over = False  # one request was answered

    def received(self, data: bytes) -> bytes:
        """What there is to be sent now."""
        for event in _events(self._connection, data):
            if isinstance(event, RequestReceived) and event.stream_id is not None:
                echo = echoed(_arrived(_listed(event.headers or ())), self._began)
                answer = [(":status", "200"), ("x-echo", echo), ("content-length", "0")]
                self._connection.send_headers(event.stream_id, answer, end_stream=True)
                self._connection.close_connection()
                self.over = True
                break
        return self._connection.data_to_send()


def _arrived(fields: list[tuple[str, str]]) -> Arrived:
    found = dict(fields)
    host = [("host", found[":authority"])] if ":authority" in found else []
    others = [(name, value) for name, value in fields if not name.startswith(":")]
    return Arrived(H2, found[":scheme"], f"{found[':method']} {found[':path']}", [*host, *others])


def _events(connection: H2Connection, data: bytes) -> list[Event]:
    try:
        return connection.receive_data(data)
    except ProtocolError as error:
        raise ConnectionAbortedError(f"that is no HTTP/2: {error!r}") from error


def _listed(headers: Iterable[tuple[bytes | str, bytes | str]]) -> list[tuple[str, str]]:
    return [(_text(name), _text(value)) for name, value in headers]


def _texts(headers: Iterable[tuple[bytes | str, bytes | str]]) -> dict[str, str]:
    return dict(_listed(headers))


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
