"""The node's real Envoy, with its real bootstrap, asked about requests between any two addresses.

Upstream of it stands an echo server for every address and port: it answers with the request as it arrived.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TypeAlias

from lockgate.envoy.config.bootstrap import BootstrapSettings, bootstrap
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.policies.interception import Greeting
from lockgate.policies.workload import IPAddress
from lockgate.tests.agreement.ground import ECHO_PORT, ENVOY_PORT, TLS_MARK, TLS_PORT
from lockgate.tests.agreement.tls import client_context, greeted_with, server_context, who_answered
from lockgate.xds import XdsServer

CLOSED = 0  # the status of a connection that ends without an answer

_PATIENCE = 15.0
_PLAIN = Greeting(False)
_HANDSHAKE = 0x16  # the first byte of TLS
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_BIND_ADDRESS_NO_PORT = 24
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, there are too many connections for it

Fields: TypeAlias = Sequence[tuple[str, str]]
Arrived: TypeAlias = tuple[str, Fields]  # the first line of a request, and its headers


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire; `headers` in order, repeated ones several times. `greeting` is how the
    connection begins."""

    method: str
    path: str
    host: str
    headers: Fields
    greeting: Greeting = _PLAIN

    def encode(self) -> bytes:
        """HTTP/1.1, without a body."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """`arrived` is the request that reached the server, and `began` how its connection did; None when none did.
    `shown` is whose certificate the client saw (tls.py), empty without TLS."""

    status: int
    body: str = ""
    arrived: Arrived | None = None
    began: Greeting | None = None
    shown: str = ""


class Envoy:
    """`xds` is what it is told by: publish there. Made by `running_envoy`."""

    def __init__(self, folder: Path, xds: XdsServer, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.xds = xds
        self._process = process

    def runs(self) -> bool:
        """False once the process has ended."""
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """The end of Envoy's own log."""
        return (self.folder / "envoy.log").read_text(errors="replace")[-4000:]

    async def wait_until_listening(self) -> None:
        """Until the listeners are there; they open with the first policy. Raises RuntimeError."""
        for address, port in product(("127.0.0.1", "::1"), (ENVOY_PORT, TLS_PORT)):
            for _ in range(int(_PATIENCE / 0.02)):
                if not self.runs():
                    raise RuntimeError(f"Envoy ended:\n{self.log}")
                with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                    if probe.connect_ex((address, port)) == 0:
                        break
                await asyncio.sleep(0.02)
            else:
                raise RuntimeError(f"Envoy does not listen at {address}:\n{self.log}")

    async def ask(self, source: IPAddress, destination: IPAddress, port: int, request: Sent, listener: int) -> Answer:
        """One request on a connection of its own, to the listener at this port. Raises OSError and asyncio's errors
        when there is no connection."""
        async with asyncio.timeout(_PATIENCE):
            connection = await _connected(source, destination, port, TLS_MARK if listener == TLS_PORT else 0)
            if listener == ENVOY_PORT and not request.greeting.encrypted:
                return await _asked(connection, request)
            try:
                return await _asked(connection, request)
            except (ConnectionError, EOFError, ssl.SSLError):
                return Answer(CLOSED)


async def _asked(connection: socket.socket, request: Sent) -> Answer:
    encrypted, server_name = request.greeting
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            ssl=client_context() if encrypted else None,
            server_hostname=server_name if encrypted else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        writer.write(request.encode())
        answer = await _read_answer(reader, request.method)
        session = writer.get_extra_info("ssl_object")
        return replace(answer, shown=who_answered(session)) if session is not None else answer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def running_envoy(ipcache: Ipcache) -> AsyncIterator[Envoy]:
    """Envoy, which goes by this ipcache, its xDS server and the echo server in the current namespace, while in the
    block."""
    with tempfile.TemporaryDirectory(prefix="lockgate-agree-") as name:
        folder = Path(name)
        settings = BootstrapSettings(run_dir=folder, node_id="agreement", ipcache=ipcache)
        (folder / "bootstrap.pb").write_bytes(bootstrap(settings))
        xds = XdsServer(settings.xds_socket)
        await xds.start()
        echoes = [asyncio.create_task(_serve(_echo_socket(at))) for at in _ECHO_ADDRESSES]
        with (folder / "envoy.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220  a few milliseconds, and nothing else is under way
                [
                    *(find_binary().path, "-c", folder / "bootstrap.pb", "--disable-hot-restart"),
                    *("--concurrency", "1", "--log-level", "warning"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **find_module(find_binary()).environment, "LC_ALL": "C"},
            )
        try:
            yield Envoy(folder, xds, process)
        finally:
            process.kill()
            process.wait()
            for echo in echoes:
                echo.cancel()
            await asyncio.gather(*echoes, return_exceptions=True)
            await xds.stop()


_ECHO_ADDRESSES = ("127.0.0.1", "::1")


def _echo_socket(address: str) -> socket.socket:
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


async def _serve(listening: socket.socket) -> None:
    """Echoes for all who connect, in TLS if they begin with that."""
    loop = asyncio.get_running_loop()
    with listening:
        async with asyncio.TaskGroup() as connections:
            while True:
                connection, _ = await loop.sock_accept(listening)
                connections.create_task(_serve_one(connection))


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


async def _connected(source: IPAddress, destination: IPAddress, port: int, mark: int) -> socket.socket:
    family = socket.AF_INET6 if source.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        made.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        made.bind((str(source), 0))
        await asyncio.get_running_loop().sock_connect(made, (str(destination), port))
    except BaseException:
        made.close()
        raise
    return made


async def _read_answer(reader: asyncio.StreamReader, method: str) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])}
    echoed = headers.get("x-echo")
    arrived = began = None
    if echoed is not None:
        line, fields, greeting = json.loads(echoed)
        arrived, began = (line, tuple((field, value) for field, value in fields)), Greeting(*greeting)
    length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    return Answer(status, (await reader.readexactly(length)).decode("latin-1"), arrived, began)


class _Echo(asyncio.Protocol):
    """Answers one request and closes: Envoy would keep a connection for each pair of addresses."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        line, *rest = head.decode("latin-1").split("\r\n")
        fields = [[name, value.strip()] for name, _, value in (each.partition(":") for each in rest)]
        echo = json.dumps([line, fields, greeted_with(self._transport.get_extra_info("ssl_object"))])
        self._transport.write(
            f"HTTP/1.1 200 OK\r\nx-echo: {echo}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("latin-1")
        )
        self._transport.close()
