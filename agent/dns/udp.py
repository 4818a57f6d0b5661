"""The UDP side: one question, one answer, and a socket of its own for each question that goes on to the server."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address

from ...policies.endpoint_policy import Protocol
from . import transparent
from .judge import Decision, Ruling
from .message import HEADER_SIZE, Query, Rcode, answers, message_id, refusal, truncated, with_id
from .packet import LONGEST_PAYLOAD, SocketAddress, udp_packet
from .relay import Event, Relay, Seats

_LONGEST = 65535
_AT_ONCE = 64  # datagrams read before others get their turn
_BINDS = 4  # tries for a port that is not the client's own


class UdpSide:
    """Serves between `open` and `close`."""

    def __init__(self, relay: Relay, port: int) -> None:
        self._relay = relay
        self._port = port
        self._seats = Seats(relay.limits.questions_of_client, relay.limits.questions)
        self._listeners: list[socket.socket] = []
        self._senders: dict[int, socket.socket] = {}  # by IP version
        self._asked: set[_Upstream] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listens in the current network namespace. Raises OSError."""
        loop = asyncio.get_running_loop()
        for version, family in zip((4, 6), transparent.FAMILIES, strict=True):
            listener = transparent.listen_udp(family, self._port)
            self._listeners.append(listener)
            self._senders[version] = transparent.answer_socket(family)
            loop.add_reader(listener, self._receive, listener)

    def close(self) -> None:
        """Stops; questions under way get no answer."""
        loop = asyncio.get_running_loop()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        for upstream in tuple(self._asked):
            upstream.close()
        for task in self._tasks:
            task.cancel()
        for sender in self._senders.values():
            sender.close()

    def _receive(self, listener: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                data, control, _, source = listener.recvmsg(_LONGEST, transparent.CONTROL_SIZE)
            except OSError:  # nothing more; or what an ICMP error left
                return
            server = transparent.original_destination(control)
            if server is not None:
                self._question(data, SocketAddress(ip_address(source[0]), source[1]), server)

    def _question(self, wire: bytes, client: SocketAddress, server: SocketAddress) -> None:
        relay = self._relay
        if relay.judge is None:
            relay.events[Event.NO_POLICY] += 1
            return
        endpoint = relay.judge.client(client.ip)
        if endpoint is None:
            relay.events[Event.UNKNOWN_CLIENT] += 1
            return
        ruling = relay.judge.rule(endpoint, server, Protocol.UDP, wire)
        match ruling.decision:
            case Decision.FORWARD:
                self._forward(wire, ruling, endpoint.key, client, server)
            case Decision.DROP:
                relay.events[Event.MALFORMED] += 1
            case Decision.REFUSE | Decision.MALFORMED:
                refused = ruling.decision is Decision.REFUSE
                relay.events[Event.REFUSED if refused else Event.MALFORMED] += 1
                self._reply(own_answer(wire, ruling.query, Rcode.REFUSED if refused else Rcode.FORMERR), client, server)

    def _forward(
        self, wire: bytes, ruling: Ruling, endpoint: str, client: SocketAddress, server: SocketAddress
    ) -> None:
        relay = self._relay
        if not self._seats.take(endpoint):
            relay.events[Event.OVERLOAD] += 1
            return

        def ended(answer: bytes | None) -> None:
            self._asked.discard(upstream)
            self._seats.leave(endpoint)
            if answer is None:
                return
            task = asyncio.create_task(self._answer(answer, wire, ruling.query, endpoint, client, server))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        upstream = _Upstream(relay, wire, ruling.query, ended)
        self._asked.add(upstream)
        relay.events[Event.FORWARDED] += 1
        if not upstream.ask(client, server):
            self._reply(own_answer(wire, ruling.query, Rcode.SERVFAIL), client, server)

    async def _answer(
        self,
        answer: bytes,
        wire: bytes,
        query: Query | None,
        endpoint: str,
        client: SocketAddress,
        server: SocketAddress,
    ) -> None:
        relay = self._relay
        question = query.question if query is not None and query.standard else None
        if await relay.admit(endpoint, question, answer):
            relay.events[Event.ANSWERED] += 1
            reply = with_id(answer, message_id(wire))
        else:
            reply = own_answer(wire, query, Rcode.SERVFAIL)
        self._reply(reply, client, server, query)

    def _reply(self, message: bytes, client: SocketAddress, server: SocketAddress, query: Query | None = None) -> None:
        """Sends it as if from the server. What does not fit into the way there becomes truncated."""
        sender = self._senders[client.ip.version]
        where = (str(client.ip), 0)
        try:
            if len(message) > LONGEST_PAYLOAD:
                raise OSError(errno.EMSGSIZE, "longer than any packet")
            sender.sendto(udp_packet(server, client, message), where)
        except OSError as error:
            if error.errno == errno.EMSGSIZE and query is not None:
                with suppress(OSError):
                    sender.sendto(udp_packet(server, client, truncated(message, query.question)), where)


def own_answer(wire: bytes, query: Query | None, rcode: Rcode) -> bytes:
    """An answer of the proxy's own."""
    if query is None:
        return refusal(wire, rcode)
    return refusal(wire, rcode, query.question, query.edns)


class _Upstream:
    """One question on its way: a socket with the client's address and a random port, connected to the server, and a
    random id. `ended` gets the answer, or None when there is none."""

    def __init__(self, relay: Relay, wire: bytes, query: Query | None, ended: Callable[[bytes | None], None]) -> None:
        self._relay = relay
        self._wire = wire
        self._query = query
        self._ended = ended
        self._number = secrets.randbits(16)
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, client: SocketAddress, server: SocketAddress) -> bool:
        """Sends the question. False when it cannot be sent; then it is over."""
        try:
            self._socket = _connect(client, server)
            self._socket.send(with_id(self._wire, self._number))
        except OSError:
            self._relay.events[Event.UNREACHABLE] += 1
            self._end(None)
            return False
        loop = asyncio.get_running_loop()
        loop.add_reader(self._socket, self._receive)
        self._timer = loop.call_later(self._relay.limits.timeout, self._time_out)
        return True

    def close(self) -> None:
        """Forgets the question."""
        self._end(None)

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            answer = self._socket.recv(_LONGEST)
        except BlockingIOError:
            return
        except OSError:  # the server's host says that nobody listens
            self._relay.events[Event.UNREACHABLE] += 1
            self._end(self._failure())
            return
        if self._is_answer(answer):
            self._end(answer)
        else:
            self._relay.events[Event.UNASKED] += 1

    def _is_answer(self, answer: bytes) -> bool:
        if self._query is None or not self._query.standard:
            return len(answer) >= HEADER_SIZE and message_id(answer) == self._number and bool(answer[2] & 0x80)
        return answers(answer, self._number, self._query.question)

    def _failure(self) -> bytes:
        return own_answer(with_id(self._wire, self._number), self._query, Rcode.SERVFAIL)

    def _time_out(self) -> None:
        self._relay.events[Event.TIMEOUT] += 1
        self._end(None)

    def _end(self, answer: bytes | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        self._ended(answer)


def _connect(client: SocketAddress, server: SocketAddress) -> socket.socket:
    """Never with the port that the client itself uses: the kernel could not tell the two legs apart."""
    for _ in range(_BINDS):
        made = transparent.upstream_socket(socket.SOCK_DGRAM, client.ip)
        try:
            if made.getsockname()[1] != client.port:
                made.connect((str(server.ip), server.port))
                return made
        except OSError:
            made.close()
            raise
        made.close()
    raise OSError(errno.EADDRINUSE, "no port is free")


__all__ = ["UdpSide", "own_answer"]
