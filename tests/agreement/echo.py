"""A server for every address and port: it answers with the request as it arrived, in TLS if that is how one begins, and
in the HTTP that one speaks."""

from __future__ import annotations

import asyncio
import socket

from lockgate.tests.agreement.exchange import H1, Arrived, echoed
from lockgate.tests.agreement.ground import ECHO_PORT
from lockgate.tests.agreement.http2 import PREFACE, Http2Echo
from lockgate.tests.agreement.tls import greeted_with, server_context

ADDRESSES = ("127.0.0.1", "::1")

_HANDSHAKE = 0x16  # the first byte of TLS
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75


async def serve(address: str) -> None:
    """For all who connect, until cancelled."""
    loop = asyncio.get_running_loop()
    with _listening(address) as listening:
        async with asyncio.TaskGroup() as connections:
            while True:
                connection, _ = await loop.sock_accept(listening)
                connections.create_task(_serve_one(connection))


def _listening(address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
    made.bind((address, ECHO_PORT))
    made.listen(512)
    made.setblocking(False)
    return made


async def _serve_one(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    try:
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(connection)
        encrypted = connection.recv(1, socket.MSG_PEEK) == bytes([_HANDSHAKE])
        context = server_context() if encrypted else None
        await loop.connect_accepted_socket(_Echo, connection, ssl=context)
    except OSError:  # the client thought better of it
        connection.close()
    except BaseException:
        connection.close()
        raise


class _Echo(asyncio.Protocol):
    """Answers one request and closes: Envoy would keep a connection for each pair of addresses."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._began = greeted_with(transport.get_extra_info("ssl_object"))
        self._received = b""
        self._http2: Http2Echo | None = None

    def data_received(self, data: bytes) -> None:
        if self._http2 is None:
            self._received += data
            if not self._received.startswith(PREFACE):
                self._answer_http1()
                return
            self._http2, data = Http2Echo(self._began), self._received
        try:
            self._transport.write(self._http2.received(data))
        except ConnectionError:
            self._transport.close()
        if self._http2.over:
            self._transport.close()

    def _answer_http1(self) -> None:
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        line, *rest = head.decode("latin-1").split("\r\n")
        fields = [(name, value.strip()) for name, _, value in (each.partition(":") for each in rest)]
        asked, _, version = line.rpartition(" ")
        assert version == "HTTP/1.1", line
        echo = echoed(Arrived(H1, "", asked, fields), self._began)
        self._transport.write(
            f"HTTP/1.1 200 OK\r\nx-echo: {echo}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("latin-1")
        )
        self._transport.close()
