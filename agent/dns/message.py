"""DNS messages: what a policy must know of them, read strictly. Nothing is re-encoded; a message passes as it came.

https://www.rfc-editor.org/rfc/rfc1035#section-4 for the format, RFC 6891 for OPT, RFC 8914 for the reason of a refusal.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from dns.exception import DNSException
from dns.name import Name
from dns.wire import Parser

from ...policies.workload import IPAddress

HEADER_SIZE = 12
_HEADER = struct.Struct("!HHHHHH")
_RECORD = struct.Struct("!HHIH")
_RESPONSE, _TRUNCATED, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x0200, 0x0100, 0x0080
_OPCODE, _RCODE = 0x7800, 0x000F
_TYPE_A, _TYPE_CNAME, _TYPE_AAAA, _TYPE_OPT = 1, 5, 28, 41
_CLASS_IN = 1
_LONGEST_CHAIN = 16  # CNAMEs; resolvers give up at about as many
_LONGEST_TTL = 0x7FFFFFFF
_MOST_QUERY_RECORDS = 16  # OPT, TSIG and little else
_MOST_ANSWER_RECORDS = 1000
_OWN_PAYLOAD = 1232
_PROHIBITED = struct.pack("!HHH", 15, 2, 18)  # the option "extended DNS error": prohibited


class Rcode(IntEnum):
    """Of an answer."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    REFUSED = 5


class MalformedError(Exception):
    """A message that cannot be read whole. `deaf` when it must not even be answered."""

    def __init__(self, why: str, deaf: bool = False) -> None:
        super().__init__(why)
        self.deaf = deaf


@dataclass(frozen=True, slots=True)
class Question:
    """`name` is lower-case and without the final dot, special characters escaped. `wire` is the whole section."""

    name: str
    rdtype: int
    rdclass: int
    wire: bytes

    def same_as(self, other: Question) -> bool:
        """True when both ask the same; names compare without case."""
        return (self.name, self.rdtype, self.rdclass) == (other.name, other.rdtype, other.rdclass)


@dataclass(frozen=True, slots=True)
class Query:
    """`standard` is false for NOTIFY, UPDATE and the like, whose question means something else."""

    question: Question
    standard: bool
    edns: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses that the question's name leads to, along its CNAMEs, and the shortest TTL on the way in seconds."""

    addresses: tuple[IPAddress, ...] = ()
    ttl: int = 0


def message_id(wire: bytes) -> int:
    """The first two bytes. The message must have a header."""
    return int.from_bytes(wire[:2], "big")


def with_id(wire: bytes, number: int) -> bytes:
    """The same message under another id."""
    return number.to_bytes(2, "big") + wire[2:]


def is_query(wire: bytes) -> bool:
    """True when it has a header that says so. Anything else is not worth an answer."""
    return len(wire) >= HEADER_SIZE and not wire[2] & 0x80


def read_query(wire: bytes) -> Query:
    """Reads every record there is.

    Raises:
        MalformedError: no query, not exactly one question, a record that is cut off, or bytes after the last one.
    """
    if not is_query(wire):
        raise MalformedError("no query", deaf=True)
    _, flags, questions, *sections = _HEADER.unpack_from(wire)
    parser = Parser(wire, HEADER_SIZE)
    try:
        question = _question(wire, parser, questions)
        if sum(sections) > _MOST_QUERY_RECORDS:
            raise MalformedError(f"{sum(sections)} records in a query")
        edns = False
        for _ in range(sum(sections)):
            parser.get_name(decompress=True)
            rdtype, _, _, length = parser.get_struct("!HHIH")
            parser.get_bytes(length)
            edns |= rdtype == _TYPE_OPT
        if parser.remaining():
            raise MalformedError(f"{parser.remaining()} bytes after the last record")
    except DNSException as error:
        raise MalformedError(f"cannot be read: {type(error).__name__}") from error
    return Query(question, standard=not flags & _OPCODE, edns=edns)


def answers(wire: bytes, number: int, question: Question) -> bool:
    """True for an answer to `question` under the id `number`. An error may leave the question out."""
    if len(wire) < HEADER_SIZE or message_id(wire) != number:
        return False
    _, flags, questions, *_ = _HEADER.unpack_from(wire)
    if not flags & _RESPONSE:
        return False
    if questions == 0:
        return bool(flags & _RCODE)
    try:
        return _question(wire, Parser(wire, HEADER_SIZE), questions).same_as(question)
    except (DNSException, MalformedError):
        return False


def read_answer(wire: bytes) -> Answer:
    """What an answer says about its question's name.

    Raises:
        MalformedError: a record of the answer section cannot be read. A truncated message that breaks off counts as
            one without addresses.
    """
    _, flags, questions, records, *_ = _HEADER.unpack_from(wire)
    if flags & _RCODE or not questions:
        return Answer()
    if records > _MOST_ANSWER_RECORDS:
        raise MalformedError(f"{records} records in an answer")
    parser = Parser(wire, HEADER_SIZE)
    try:
        asked = parser.get_name(decompress=True)
        parser.get_struct("!HH")
        return _Records(parser, records).follow(asked)
    except (DNSException, ValueError) as error:
        if flags & _TRUNCATED:
            return Answer()
        raise MalformedError(f"cannot be read: {type(error).__name__}") from error


def refusal(query: bytes, rcode: Rcode, question: Question | None = None, edns: bool = False) -> bytes:
    """An answer of our own to `query`, which must have a header. With `edns` it says why, if the reason is policy."""
    number, flags, *_ = _HEADER.unpack_from(query)
    flags = _RESPONSE | flags & (_OPCODE | _RECURSION_DESIRED) | _RECURSION_AVAILABLE | rcode
    head = _HEADER.pack(number, flags, int(question is not None), 0, 0, int(edns))
    why = _PROHIBITED if rcode is Rcode.REFUSED else b""
    opt = b"\0" + _RECORD.pack(_TYPE_OPT, _OWN_PAYLOAD, 0, len(why)) + why if edns else b""
    return head + (question.wire if question is not None else b"") + opt


def truncated(answer: bytes, question: Question) -> bytes:
    """The answer as one that was too long, so that the client asks again over TCP."""
    number, flags, *_ = _HEADER.unpack_from(answer)
    return _HEADER.pack(number, flags | _TRUNCATED, 1, 0, 0, 0) + question.wire


def _question(wire: bytes, parser: Parser, count: int) -> Question:
    """Compression is not allowed here: there is nothing before a question's name but the header."""
    if count != 1:
        raise MalformedError(f"{count} questions")
    name = parser.get_name(decompress=False)
    rdtype, rdclass = parser.get_struct("!HH")
    return Question(canonical(name), rdtype, rdclass, wire[HEADER_SIZE : parser.current])


def canonical(name: Name) -> str:
    """`api.example.com`, as policies write names."""
    return name.to_text(omit_final_dot=True).lower()


class _Records:
    """CNAMEs and addresses of an answer section."""

    def __init__(self, parser: Parser, count: int) -> None:
        self._aliases: dict[Name, Name] = {}
        self._addresses: dict[Name, list[IPAddress]] = {}
        self._ttls: dict[Name, int] = {}
        for _ in range(count):
            owner = parser.get_name(decompress=True)
            rdtype, rdclass, ttl, length = parser.get_struct("!HHIH")
            with parser.restrict_to(length):
                self._add(parser, owner, rdtype if rdclass == _CLASS_IN else 0, ttl)

    def _add(self, parser: Parser, owner: Name, rdtype: int, ttl: int) -> None:
        if rdtype == _TYPE_CNAME:
            self._aliases[owner] = parser.get_name(decompress=True)
        elif rdtype == _TYPE_A:
            self._addresses.setdefault(owner, []).append(IPv4Address(parser.get_remaining()))
        elif rdtype == _TYPE_AAAA:
            self._addresses.setdefault(owner, []).append(IPv6Address(parser.get_remaining()))
        else:
            parser.get_remaining()
            return
        ttl = ttl if ttl <= _LONGEST_TTL else 0  # https://www.rfc-editor.org/rfc/rfc2181#section-8
        self._ttls[owner] = min(ttl, self._ttls.get(owner, ttl))

    def follow(self, name: Name) -> Answer:
        """The addresses at the end of the chain that begins with `name`."""
        shortest = _LONGEST_TTL
        for _ in range(_LONGEST_CHAIN):
            shortest = min(shortest, self._ttls.get(name, shortest))
            if name in self._addresses:
                return Answer(tuple(dict.fromkeys(self._addresses[name])), shortest)
            if name not in self._aliases:
                break
            name = self._aliases[name]
        return Answer()
