"""The node's real Envoy, with its real bootstrap, asked about requests between any two addresses.

Upstream of it stands an echo server for every address and port: it answers with the request as it arrived.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lockgate.envoy.binary import find_binary
from lockgate.envoy.bootstrap import BootstrapSettings, bootstrap
from lockgate.envoy.identity_filter import Ipcache
from lockgate.envoy.module_file import find_module
from lockgate.policies.workload import IPAddress
from lockgate.tests.agreement.ground import ECHO_PORT, ENVOY_PORT
from lockgate.xds import XdsServer

_PATIENCE = 15.0
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_BIND_ADDRESS_NO_PORT = 24
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, there are too many connections for it

Fields: TypeAlias = Sequence[tuple[str, str]]
Arrived: TypeAlias = tuple[str, Fields]  # the first line of a request, and its headers


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it goes over the wire; `headers` in order, repeated ones several times."""

    method: str
    path: str
    host: str
    headers: Fields

    def encode(self) -> bytes:
        """HTTP/1.1, without a body."""
        lines = [f"{self.method} {self.path} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """`arrived` is the request that reached the server; None when none did."""

    status: int
    body: str
    arrived: Arrived | None = None


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
        """Until both listeners are there; they open with the first policy. Raises RuntimeError."""
        for address in ("127.0.0.1", "::1"):
            for _ in range(int(_PATIENCE / 0.02)):
                if not self.runs():
                    raise RuntimeError(f"Envoy ended:\n{self.log}")
                with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
                    if probe.connect_ex((address, ENVOY_PORT)) == 0:
                        break
                await asyncio.sleep(0.02)
            else:
                raise RuntimeError(f"Envoy does not listen at {address}:\n{self.log}")

    async def ask(self, source: IPAddress, destination: IPAddress, port: int, request: Sent) -> Answer:
        """One request on a connection of its own. Raises OSError and asyncio's errors when there is no answer."""
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(sock=await _connected(source, destination, port))
            try:
                writer.write(request.encode())
                return await _read_answer(reader, request.method)
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
        echoes = [
            await asyncio.get_running_loop().create_server(_Echo, sock=_echo_socket(at)) for at in _ECHO_ADDRESSES
        ]
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
                echo.close()
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
    return made


async def _connected(source: IPAddress, destination: IPAddress, port: int) -> socket.socket:
    family = socket.AF_INET6 if source.version == 6 else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        made.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
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
    arrived = None
    if echoed is not None:
        line, fields = json.loads(echoed)
        arrived = line, tuple((field, value) for field, value in fields)
    length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
    return Answer(status, (await reader.readexactly(length)).decode("latin-1"), arrived)


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
        echo = json.dumps([line, fields])
        self._transport.write(
            f"HTTP/1.1 200 OK\r\nx-echo: {echo}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode("latin-1")
        )
        self._transport.close()
