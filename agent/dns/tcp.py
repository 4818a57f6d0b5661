"""The TCP side: a connection to the server for each of the client's; each question is judged, each answer is held until
its addresses are in force. Messages pass as they came, in the order in which they are ready."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from ipaddress import ip_address

from ...policies.endpoint_policy import Protocol
from . import transparent
from .judge import Decision
from .message import HEADER_SIZE, Query, Rcode, answers, message_id
from .packet import SocketAddress
from .relay import ZONE_TRANSFERS, Event, Relay, Seats
from .udp import own_answer

_BACKLOG = 128
_MOST_ASKED = 1000  # questions without an answer on one connection


class TcpSide:
    """Serves between `open` and `close`."""

    def __init__(self, relay: Relay, port: int) -> None:
        self._relay = relay
        self._port = port
        self._seats = Seats(relay.limits.connections_of_client, relay.limits.connections)
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listens in the current network namespace. Raises OSError."""
        for family in transparent.FAMILIES:
            listener = transparent.listen_tcp(family, self._port, _BACKLOG)
            self._servers.append(await asyncio.start_server(self._accept, sock=listener))

    async def close(self) -> None:
        """Stops and ends every connection."""
        for server in self._servers:
            server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = self._relay
        client, server = _end(writer.get_extra_info("peername")), _end(writer.get_extra_info("sockname"))
        endpoint = relay.judge.client(client.ip) if relay.judge is not None and client and server else None
        if endpoint is None or client is None or server is None:
            relay.events[Event.NO_POLICY if relay.judge is None else Event.UNKNOWN_CLIENT] += 1
            writer.transport.abort()
            return
        if not self._seats.take(endpoint.key):
            relay.events[Event.OVERLOAD] += 1
            writer.transport.abort()
            return
        try:
            await _Connection(relay, endpoint.key, client, server, reader, writer).run()
        finally:
            self._seats.leave(endpoint.key)


def _end(name: tuple[str, int] | None) -> SocketAddress | None:
    return SocketAddress(ip_address(name[0]), name[1]) if name else None


class _Connection:
    """One client's connection with the one that goes on to the server."""

    def __init__(
        self,
        relay: Relay,
        endpoint: str,
        client: SocketAddress,
        server: SocketAddress,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._relay = relay
        self._endpoint = endpoint
        self._client, self._server = client, server
        self._from_client, self._to_client = reader, writer
        self._asked: dict[int, tuple[Query | None, bytes]] = {}  # by id: what, and its bytes

    async def run(self) -> None:
        """Until one end closes, or nothing happens for too long."""
        to_server: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._relay.limits.timeout):
                from_server, to_server = await self._connect()
            async with asyncio.timeout(self._relay.limits.idle) as deadline:
                await self._both_ways(from_server, to_server, deadline)
        except TimeoutError:
            self._relay.events[Event.TIMEOUT] += 1
        except (OSError, EOFError):
            self._relay.events[Event.UNREACHABLE] += to_server is None
        finally:
            for writer in (self._to_client, to_server):
                if writer is not None:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = transparent.upstream_socket(socket.SOCK_STREAM, self._client.ip)
        try:
            await asyncio.get_running_loop().sock_connect(made, (str(self._server.ip), self._server.port))
            return await asyncio.open_connection(sock=made)
        except BaseException:
            made.close()
            raise

    async def _both_ways(
        self, from_server: asyncio.StreamReader, to_server: asyncio.StreamWriter, deadline: asyncio.Timeout
    ) -> None:
        questions = asyncio.create_task(self._questions(to_server, deadline))
        answers = asyncio.create_task(self._answers(from_server, deadline))
        try:
            done, _ = await asyncio.wait((questions, answers), return_when=asyncio.FIRST_COMPLETED)
            if questions in done and questions.exception() is None and not questions.result():
                return
            if questions in done and questions.exception() is None:
                await answers  # the client has said all and listens on
        finally:
            for task in (questions, answers):
                task.cancel()
            await asyncio.gather(questions, answers, return_exceptions=True)

    async def _questions(self, to_server: asyncio.StreamWriter, deadline: asyncio.Timeout) -> bool:
        """True when the client has sent its last; False when there is nothing more to be done for it."""
        relay = self._relay
        while True:
            try:
                wire = await _read(self._from_client)
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    return False
                to_server.write_eof()
                return True
            await relay.wait_turn(self._endpoint)
            _put_off(deadline, relay.limits.idle)
            # By the policy of now, not of when the connection began.
            endpoint = relay.judge.client(self._client.ip) if relay.judge is not None else None
            if endpoint is None or relay.judge is None:
                relay.events[Event.UNKNOWN_CLIENT] += 1
                return False
            ruling = relay.judge.rule(endpoint, self._server, Protocol.TCP, wire)
            match ruling.decision:
                case Decision.FORWARD:
                    if len(self._asked) >= _MOST_ASKED:
                        relay.events[Event.OVERLOAD] += 1
                        return False
                    relay.events[Event.FORWARDED] += 1
                    self._asked[message_id(wire)] = ruling.query, wire
                    _write(to_server, wire)
                    await to_server.drain()
                case Decision.DROP:
                    relay.events[Event.MALFORMED] += 1
                    return False
                case Decision.REFUSE | Decision.MALFORMED:
                    refused = ruling.decision is Decision.REFUSE
                    relay.events[Event.REFUSED if refused else Event.MALFORMED] += 1
                    rcode = Rcode.REFUSED if refused else Rcode.FORMERR
                    _write(self._to_client, own_answer(wire, ruling.query, rcode))
                    await self._to_client.drain()

    async def _answers(self, from_server: asyncio.StreamReader, deadline: asyncio.Timeout) -> None:
        relay = self._relay
        while True:
            answer = await _read(from_server)
            _put_off(deadline, relay.limits.idle)
            asked = self._asked.get(message_id(answer)) if len(answer) >= HEADER_SIZE else None
            if asked is None or not _belongs(answer, asked[0]):
                relay.events[Event.UNASKED] += 1
                continue
            query, wire = asked
            question = query.question if query is not None and query.standard else None
            if question is None or question.rdtype not in ZONE_TRANSFERS:
                del self._asked[message_id(answer)]
            if await relay.admit(self._endpoint, question, answer):
                relay.events[Event.ANSWERED] += 1
            else:
                answer = own_answer(wire, query, Rcode.SERVFAIL)
            _write(self._to_client, answer)
            await self._to_client.drain()


def _belongs(answer: bytes, query: Query | None) -> bool:
    """A zone comes in many messages, of which only the first need repeat the question."""
    if query is None or not query.standard or query.question.rdtype in ZONE_TRANSFERS:
        return bool(answer[2] & 0x80)
    return answers(answer, message_id(answer), query.question)


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(2), "big")
    return await reader.readexactly(length)


def _write(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(len(message).to_bytes(2, "big") + message)


def _put_off(deadline: asyncio.Timeout, seconds: float) -> None:
    if not deadline.expired():
        deadline.reschedule(asyncio.get_running_loop().time() + seconds)
