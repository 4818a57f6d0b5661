"""The client of an example's flow: HTTP, TLS, Kafka, a datagram, or only a connection."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from functools import partial

from lockgate.policies import Flow, HttpRequest, KafkaRequest, Protocol
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.e2e.example_attempt import Attempt, Outcome
from lockgate.tests.e2e.example_servers import GOT, Servers, bound_to, headers_of


async def attempt(each: Attempt, servers: Servers, patience: float, connect_only: bool = False) -> Outcome:
    """Make the flow happen. An answer counts only when it is the server's own, given to the client's own address."""
    flow = each.case.flow
    udp = flow.protocol is Protocol.UDP
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    connection = netns.run_in(each.client.where.path, partial(bound_to, each.client.address, 0, kind))
    own = connection.getsockname()[:2]
    loop = asyncio.get_running_loop()
    target = each.target
    try:
        await asyncio.wait_for(loop.sock_connect(connection, target), patience)
        if udp:
            await loop.sock_sendall(connection, b"ping")
            answer = await asyncio.wait_for(loop.sock_recv(connection, 2048), patience)
            return _answered(each, answer.decode())
        if connect_only:
            return Outcome("connected")
        if each.encrypted:
            return await asyncio.wait_for(_encrypted(each, connection, servers.client), patience)
        if each.kafka:
            return await asyncio.wait_for(_kafka(each, each.kafka, connection), patience)
        await loop.sock_sendall(connection, _request(flow, each.server.address))
        return _outcome(each, await asyncio.wait_for(_receive(loop, connection, _method(flow)), patience))
    except TimeoutError:
        return Outcome("reached the server, but nothing came back" if own in servers.seen else "dropped")
    except ConnectionRefusedError as error:
        return Outcome("refused", str(error))
    except OSError as error:
        return Outcome("closed", str(error))
    finally:
        connection.close()


async def _kafka(each: Attempt, asked: KafkaRequest, connection: socket.socket) -> Outcome:
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        writer.write(kafka_frames.request(asked))
        payload = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
    except asyncio.IncompleteReadError as error:
        return Outcome("closed", str(error))
    finally:
        writer.transport.abort()
    by_server = f"{each.server.name} to {each.client.address}".encode()
    return Outcome("answered") if payload.endswith(by_server) else Outcome("denied", repr(payload))


async def _encrypted(each: Attempt, connection: socket.socket, context: ssl.SSLContext) -> Outcome:
    """The same in TLS. A client that has only an address sends no server name."""
    flow, called = each.case.flow, each.server_name or str(each.server.address)
    reader, writer = await asyncio.open_connection(sock=connection, ssl=context, server_hostname=called)
    try:
        writer.write(_request(flow, each.server.address))
        head = await reader.readuntil(b"\r\n\r\n")
        return _outcome(each, head + await reader.readexactly(_length(head) - len(head)))
    except asyncio.IncompleteReadError as error:
        return Outcome("closed", str(error))
    finally:
        writer.transport.abort()


async def _receive(loop: asyncio.AbstractEventLoop, connection: socket.socket, method: str) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received or (method != "HEAD" and len(received) < _length(received)):
        data = await loop.sock_recv(connection, 65536)
        if not data:
            break
        received += data
    return received


def _length(received: bytes) -> int:
    head, _, _ = received.partition(b"\r\n\r\n")
    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    body = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
    return len(head) + 4 + body


def _method(flow: Flow) -> str:
    return flow.request.method if isinstance(flow.request, HttpRequest) else "GET"


def _request(flow: Flow, address: IPAddress) -> bytes:
    wanted = flow.request if isinstance(flow.request, HttpRequest) else HttpRequest("GET", "/")
    host = wanted.host or (f"[{address}]" if address.version == 6 else str(address))
    headers = {"host": host, "content-length": "0", **wanted.headers}
    lines = [f"{wanted.method} {wanted.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _outcome(each: Attempt, received: bytes) -> Outcome:
    head, _, body = received.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status == [b"403"] and body == b"Access denied\r\n":
        return Outcome("denied")
    if b"\r\ngrpc-status: 7\r\ngrpc-message: Access denied\r\n" in head + b"\r\n":
        return Outcome("denied")
    if status == [b"200"]:
        got: dict[str, str] = json.loads(headers_of(head)[GOT.decode()])
        for name, value in each.case.arrives:
            if got.get(name) != value:
                return Outcome("answered wrongly", f"{name} arrived as {got.get(name)}")
        return Outcome("answered") if _method(each.case.flow) == "HEAD" else _answered(each, body.decode())
    return Outcome("closed", received.decode(errors="replace"))


def _answered(each: Attempt, text: str) -> Outcome:
    wanted = f"{each.server.name} to {each.client.address}"
    return Outcome("answered") if text == wanted else Outcome("answered wrongly", f"'{text}', not '{wanted}'")
