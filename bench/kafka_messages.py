"""What bench/kafka sends and gets: one request with its response for each kind of work, byte by byte.

https://kafka.apache.org/protocol#protocol_messages: Produce version 9 and Fetch version 12, both with compact types.
The records are opaque bytes to everybody on the way, so they are zeros.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

PRODUCE, FETCH = 0, 1
ALLOWED, FORBIDDEN = "orders", "secret"
DENIED = 29  # TOPIC_AUTHORIZATION_FAILED
_PRODUCE_VERSION, _FETCH_VERSION = 9, 12
_CLIENT = "bench"
_NO_TAGS = b"\0"


@dataclass(frozen=True, slots=True)
class Work:
    """A request and the response to it, both whole frames; the correlation id in them is 0."""

    key: str
    title: str
    request: bytes
    response: bytes


def works() -> tuple[Work, ...]:
    """What is measured."""
    return (
        Work("small", "Produce of 100 bytes", produce(ALLOWED, 100), produced(ALLOWED)),
        Work("large", "Produce of 64 KiB", produce(ALLOWED, 64 << 10), produced(ALLOWED)),
        Work("fetch", "Fetch of 64 KiB", fetch(ALLOWED), fetched(ALLOWED, FETCHED)),
    )


FETCHED = 64 << 10  # bytes of records in the broker's answer to each Fetch


def produce(topic: str, size: int, correlation: int = 0) -> bytes:
    """A Produce request with `size` bytes of records for partition 0."""
    partition = struct.pack(">i", 0) + _compact(bytes(size)) + _NO_TAGS
    topics = _array([_compact(topic.encode()) + _array([partition]) + _NO_TAGS])
    body = b"\0" + struct.pack(">hi", -1, 30_000) + topics + _NO_TAGS
    return _request(PRODUCE, _PRODUCE_VERSION, correlation, body)


def produced(topic: str, error: int = 0) -> bytes:
    """The broker's response to it."""
    partition = struct.pack(">ihqqq", 0, error, 0, -1, 0) + _array([]) + b"\0" + _NO_TAGS
    return _response(_array([_compact(topic.encode()) + _array([partition]) + _NO_TAGS]) + struct.pack(">i", 0))


def fetch(topic: str, correlation: int = 0) -> bytes:
    """A Fetch request for partition 0, as clients send their first one."""
    partition = struct.pack(">iiqiqi", 0, -1, 0, -1, -1, 1 << 20) + _NO_TAGS
    topics = _array([_compact(topic.encode()) + _array([partition]) + _NO_TAGS])
    head = struct.pack(">iiiibii", -1, 500, 1, 50 << 20, 0, 0, 0)
    return _request(FETCH, _FETCH_VERSION, correlation, head + topics + _array([]) + _compact(b"") + _NO_TAGS)


def fetched(topic: str, size: int) -> bytes:
    """The broker's response to it, with so many bytes of records."""
    partition = struct.pack(">ihqqq", 0, 0, 1, 1, 0) + b"\0" + struct.pack(">i", -1) + _compact(bytes(size)) + _NO_TAGS
    topics = _array([_compact(topic.encode()) + _array([partition]) + _NO_TAGS])
    return _response(struct.pack(">ihi", 0, 0, 0) + topics)


def error_of_produce(response: bytes, topic: str) -> int:
    """The error code of the only partition in a response to `produce`."""
    behind_names = 4 + 4 + 1 + 1 + len(_compact(topic.encode())) + 1 + 4
    return int(struct.unpack_from(">h", response, behind_names)[0])


def _request(api: int, version: int, correlation: int, body: bytes) -> bytes:
    client = _CLIENT.encode()
    head = struct.pack(">hhih", api, version, correlation, len(client)) + client + _NO_TAGS
    return _framed(head + body)


def _response(body: bytes) -> bytes:
    return _framed(struct.pack(">i", 0) + _NO_TAGS + body + _NO_TAGS)


def _framed(payload: bytes) -> bytes:
    return struct.pack(">i", len(payload)) + payload


def _compact(data: bytes) -> bytes:
    return _varint(len(data) + 1) + data


def _array(items: list[bytes]) -> bytes:
    return _varint(len(items) + 1) + b"".join(items)


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])
