"""What the UDP and the TCP side of the proxy share: who may be served, what is learned, and how much of it happened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from ...policies.workload import IPAddress
from .judge import DnsJudge
from .message import MalformedError, Question, read_answer

ZONE_TRANSFERS = (251, 252)  # IXFR, AXFR: many records of many names, and none of them the question's


class Event(StrEnum):
    """What is counted."""

    FORWARDED = "forwarded"
    REFUSED = "refused"
    MALFORMED = "malformed"
    UNKNOWN_CLIENT = "unknown-client"
    NO_POLICY = "no-policy"  # the first world is not in force yet
    OVERLOAD = "overload"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    ANSWERED = "answered"
    UNASKED = "unasked"  # an answer to nothing that was asked
    UNREADABLE = "unreadable"  # an answer
    LATE = "late"  # an answer that was held back for too long for an address to come into force


Learn: TypeAlias = Callable[[str, str, tuple[IPAddress, ...], int], Awaitable[None]]
"""(client, name, addresses, TTL in seconds): returns when the client may connect to them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds and numbers. Over a limit datagrams are dropped and connections closed: clients ask again."""

    timeout: float = 5.0  # for a server's answer, as resolvers in clients have it
    hold: float = 2.0  # for an address to come into force; then the answer goes out all the same
    questions_of_client: int = 256  # over UDP, at the same time
    questions: int = 4096
    connections_of_client: int = 32
    connections: int = 512
    idle: float = 30.0  # of a TCP connection
    pace: float = 0.001  # between two questions of a client over TCP; bpf/pace.h has the same over UDP


class Relay:
    """One for the whole proxy."""

    def __init__(self, learn: Learn, limits: Limits) -> None:
        self.limits = limits
        self.judge: DnsJudge | None = None
        self.events: Counter[Event] = Counter()
        self._learn = learn
        self._due: dict[str, float] = {}  # by client, when its next question over TCP may be dealt with

    async def wait_turn(self, client: str) -> None:
        """Over TCP a client says much at once: others are served between its questions, however many connections it
        has."""
        now = asyncio.get_running_loop().time()
        due = max(self._due.get(client, now), now)
        self._due[client] = due + self.limits.pace
        await asyncio.sleep(due - now)

    async def admit(self, client: str, question: Question | None, answer: bytes) -> bool:
        """Waits until the client may use the answer; `question` None is one that was not understood.

        False when the answer cannot be read.
        """
        try:
            shown = self.shown(question, answer)
        except MalformedError:
            self.events[Event.UNREADABLE] += 1
            return False
        if question is not None and shown is not None:
            try:
                async with asyncio.timeout(self.limits.hold):
                    await self._learn(client, question.name, *shown)
            except TimeoutError:
                self.events[Event.LATE] += 1
        return True

    def shown(self, question: Question | None, answer: bytes) -> tuple[tuple[IPAddress, ...], int] | None:
        """The addresses that an answer shows, and their TTL; None when there are none to learn. MalformedError."""
        if question is None or question.rdtype in ZONE_TRANSFERS:
            return None
        found = read_answer(answer)
        return (found.addresses, found.ttl) if found.addresses else None


class Seats:
    """Counts what is under way, for each client and in all."""

    def __init__(self, of_client: int, in_all: int) -> None:
        self._of_client, self._in_all = of_client, in_all
        self._taken: Counter[str] = Counter()
        self._sum = 0

    def take(self, client: str) -> bool:
        """False when there is no room."""
        if self._sum >= self._in_all or self._taken[client] >= self._of_client:
            return False
        self._taken[client] += 1
        self._sum += 1
        return True

    def leave(self, client: str) -> None:
        """Gives back what `take` gave."""
        self._taken[client] -= 1
        self._sum -= 1
        if not self._taken[client]:
            del self._taken[client]
