"""The node's real Envoy, with its real bootstrap, asked about requests between any two addresses.

Upstream of it stands an echo server for every address and port (echo.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path

from lockgate.envoy.config.bootstrap import BootstrapSettings, bootstrap
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.running.binary import find_binary
from lockgate.envoy.running.module_file import find_module
from lockgate.policies.workload import IPAddress
from lockgate.tests.agreement.echo import ADDRESSES, serve
from lockgate.tests.agreement.exchange import CLOSED, H2, Answer, Sent, ask_http1
from lockgate.tests.agreement.ground import ENVOY_PORT, TLS_MARK, TLS_PORT
from lockgate.tests.agreement.http2 import StreamRefusedError, ask_http2
from lockgate.tests.agreement.tls import client_context, who_answered
from lockgate.xds import XdsServer

_PATIENCE = 15.0
_BIND_ADDRESS_NO_PORT = 24
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: no TIME_WAIT, there are too many connections for it


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
            try:
                return await _asked(connection, request)
            except StreamRefusedError:
                return Answer(CLOSED)
            except (ConnectionError, EOFError, ssl.SSLError):
                if listener == ENVOY_PORT and not request.greeting.encrypted:
                    raise
                return Answer(CLOSED)


async def _asked(connection: socket.socket, request: Sent) -> Answer:
    encrypted, server_name = request.greeting
    try:
        reader, writer = await asyncio.open_connection(
            sock=connection,
            ssl=client_context(request.wire.offers) if encrypted else None,
            server_hostname=server_name if encrypted else None,
        )
    except BaseException:
        connection.close()
        raise
    try:
        session = writer.get_extra_info("ssl_object")
        chosen = (session.selected_alpn_protocol() or "") if session is not None else ""
        ask = ask_http2 if request.wire.speaks(chosen) == H2 else ask_http1
        answer = await ask(reader, writer, request)
        return replace(answer, shown=who_answered(session), chosen=chosen) if session is not None else answer
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
        echoes = [asyncio.create_task(serve(at)) for at in ADDRESSES]
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
