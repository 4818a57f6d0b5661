"""What answers the flows of an example's tests."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from lockgate.policies import Protocol, Verdict, World, explain
from lockgate.policies.tls_secret import TRUSTED_CA, TlsMaterial, TlsSide
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.e2e.example_attempt import Attempt
from lockgate.tests.e2e.tls_pods import Authority

GOT = b"x-got"


class Servers:
    """Something that answers at every address and port the attempts go to; `seen` is who got there, by (ip, port).

    Where TLS arrives at it the server speaks it, with a certificate for every name that it is called by, or that of the
    policies' own Secret; `client` trusts it.
    """

    def __init__(self, folder: Path, world: World) -> None:
        self.seen: set[tuple[str, int]] = set()
        self.client = ssl.create_default_context()
        self._folder = folder
        self._world = world
        self._stack = ExitStack()
        self._answering: set[asyncio.Task[Any]] = set()

    async def open(self, attempts: Iterable[Attempt]) -> None:
        attempts = tuple(attempts)
        loop = asyncio.get_running_loop()
        wanted = {(each.server, each.port, each.case.flow.protocol) for each in attempts}
        encrypted = {(each.server, each.port) for each in attempts if self._arrives_encrypted(each)}
        shown = self._certificate(attempts) if any(each.encrypted for each in attempts) or encrypted else None
        kafka = {(each.server, each.port) for each in attempts if each.kafka}
        for place, port, protocol in wanted:
            kind = socket.SOCK_DGRAM if protocol is Protocol.UDP else socket.SOCK_STREAM
            bound = netns.run_in(place.where.path, partial(bound_to, place.address, port, kind))
            if kind == socket.SOCK_DGRAM:
                transport, _ = await loop.create_datagram_endpoint(partial(_Echo, place.name, self.seen), sock=bound)
                self._stack.callback(transport.close)
            else:
                context = shown if (place, port) in encrypted else None
                answer = self._answer_kafka if (place, port) in kafka else self._answer
                server = await asyncio.start_server(partial(answer, place.name), sock=bound, ssl=context)
                self._stack.callback(server.close)

    def _certificate(self, attempts: Iterable[Attempt]) -> ssl.SSLContext:
        authority = Authority("example")
        names = {name for each in attempts for name in (each.server_name, str(each.server.address)) if name}
        file = self._folder / "server.pem"
        file.touch(0o600)
        file.write_bytes(b"".join(authority.issue(*sorted(names))))
        self.client.load_verify_locations(cadata=authority.pem.decode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for known in self._materials():
            self.client.load_verify_locations(cadata=known.trusted_ca.decode())
            if known.certificate:
                file.write_bytes(known.certificate + known.private_key)
        context.load_cert_chain(file)
        return context

    def _materials(self) -> list[TlsMaterial]:
        """Of the policies' own TLS contexts that have an authority, which clients are to trust."""
        return [
            self._world.tls.material(side, replace(context, trusted_ca=TRUSTED_CA))
            for policy in self._world.policies
            for rule in policy.rules
            for entry in (*rule.ingress, *rule.egress)
            for ports in entry.ports or ()
            if ports.tls is not None
            for side, context in (
                (TlsSide.TERMINATING, ports.tls.terminating),
                (TlsSide.ORIGINATING, ports.tls.originating),
            )
            if context is not None
        ]

    def _arrives_encrypted(self, each: Attempt) -> bool:
        explanation = explain(self._world, each.case.flow)
        if explanation.verdict is not Verdict.ALLOW:
            return False
        encrypted = each.encrypted
        for side in (explanation.egress, explanation.ingress):
            if side is not None and side.interception is not None:
                encrypted = side.interception.originating is not None
        return encrypted

    async def close(self) -> None:
        self._stack.close()
        for task in self._answering:
            task.cancel()
        await asyncio.gather(*self._answering, return_exceptions=True)

    async def _answer(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """HTTP without bodies: a request is answered with the server's name and the client's address, and in a header
        with the headers that it got."""
        async with self._in_line(writer) as address:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                body = f"{name} to {address}".encode()
                got = json.dumps(headers_of(head)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\n%s: %s\r\nContent-Length: %d\r\n\r\n" % (GOT, got, len(body)))
                writer.write(b"" if head.startswith(b"HEAD ") else body)
                await writer.drain()

    async def _answer_kafka(self, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every request is answered with the server's name and the client's address."""
        async with self._in_line(writer) as address:
            while True:
                payload = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
                writer.write(kafka_frames.answer(payload, f"{name} to {address}".encode()))
                await writer.drain()

    @asynccontextmanager
    async def _in_line(self, writer: asyncio.StreamWriter) -> AsyncIterator[str]:
        """Who asks is seen, and answered until one of the two goes; the block is given the address."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        address, port = writer.get_extra_info("peername")[:2]
        self.seen.add((address, port))
        try:
            yield address
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._answering.discard(task)
            writer.transport.abort()


class _Echo(asyncio.DatagramProtocol):
    def __init__(self, name: str, seen: set[tuple[str, int]]) -> None:
        self._name = name
        self._seen = seen

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._seen.add((addr[0], addr[1]))
        self._transport.sendto(f"{self._name} to {addr[0]}".encode(), addr)


def bound_to(address: IPAddress, port: int, kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, kind)
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((str(address), port))
    return bound


def headers_of(head: bytes) -> dict[str, str]:
    """By lower-case name, repeated ones joined."""
    found: dict[str, str] = {}
    for line in head.decode().split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            key, value = name.lower(), value.strip()
            found[key] = f"{found[key]},{value}" if key in found else value
    return found
