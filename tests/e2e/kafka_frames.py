"""Kafka requests and responses byte by byte, for clients and servers that are sockets."""

from __future__ import annotations

import struct
from collections.abc import Callable

from lockgate.policies import KafkaRequest
from lockgate.policies.kafka_api import API_KEYS

_VERSIONS = {"produce": 2, "fetch": 4, "metadata": 1}  # of the rest, the first
PRODUCE, METADATA, API_VERSIONS = API_KEYS["produce"], API_KEYS["metadata"], API_KEYS["apiversions"]


def text(value: str) -> bytes:
    """A STRING."""
    return struct.pack(">h", len(value.encode())) + value.encode()


def array(items: list[bytes]) -> bytes:
    """An ARRAY of what is written already."""
    return struct.pack(">i", len(items)) + b"".join(items)


def framed(payload: bytes) -> bytes:
    """With its length before it."""
    return struct.pack(">i", len(payload)) + payload


def request(asked: KafkaRequest, correlation: int = 7, *, acks: int = 1, records: bytes = b"") -> bytes:
    """What a client would send for it, in an old version that names topics plainly; `asked.api_version` is not used.

    Raises KeyError for an API that is not written here.
    """
    name = {number: name for name, number in API_KEYS.items()}[asked.api_key]
    topics = sorted(asked.topics)
    part = struct.pack(">i", 0)
    bodies: dict[str, Callable[[], bytes]] = {
        "produce": lambda: (
            struct.pack(">hi", acks, 1000)
            + array([text(topic) + array([part + struct.pack(">i", len(records)) + records]) for topic in topics])
        ),
        "fetch": lambda: (
            struct.pack(">iiiib", -1, 10, 0, 1 << 20, 0)
            + array([text(topic) + array([part + struct.pack(">qi", 0, 1 << 20)]) for topic in topics])
        ),
        "metadata": lambda: array([text(topic) for topic in topics]),
        "joingroup": lambda: text("group") + struct.pack(">i", 10000) + text("") + text("consumer") + array([]),
        "apiversions": lambda: b"",
        "createtopics": lambda: (
            array([text(topic) + struct.pack(">ih", 1, 1) + array([]) + array([]) for topic in topics])
            + struct.pack(">i", 1000)
        ),
        "deletetopics": lambda: array([text(topic) for topic in topics]) + struct.pack(">i", 1000),
        "initproducerid": lambda: struct.pack(">hi", -1, 1000),
    }
    head = struct.pack(">hhi", asked.api_key, _VERSIONS.get(name, 0), correlation) + text(asked.client_id)
    return framed(head + bodies[name]())


def answer(payload: bytes, body: bytes) -> bytes:
    """A server's response to a request (without its length) that holds `body`; one about versions lists none."""
    key, correlation = struct.unpack_from(">hxxi", payload)
    if key == API_VERSIONS:
        body = struct.pack(">hi", 0, 0) + body
    return framed(struct.pack(">i", correlation) + body)
