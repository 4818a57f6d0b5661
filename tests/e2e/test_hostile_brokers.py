"""A Kafka broker that answers with lengths, numbers and ids that do not fit. Envoy reads them, to hide topics."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from lockgate.agent.playground import Namespace
from lockgate.policies import KafkaRequest
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.field import listen
from lockgate.tests.e2e.kafka_frames import API_VERSIONS, METADATA, array, framed, request, text
from lockgate.tests.e2e.live_node import LiveNode, live_node

PORT = 9092
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: kafka}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - toPorts:
    - ports: [{port: "9092", protocol: TCP}]
      rules: {kafka: [{role: consume, topic: orders}]}
"""
FETCH = 1
NULL = b"\xff\xff\xff\xff"  # an ARRAY that is none
HUGE = (1 << 31) - 1
ID = b"<id>"  # of the request, in four bytes


def topic(name: str) -> bytes:
    return struct.pack(">h", 0) + text(name) + b"\0" + array([])


def metadata(topics: bytes) -> bytes:
    """The body of a response of version 1, after its id."""
    return array([]) + struct.pack(">i", 1) + topics


HIDDEN = topic("secret")
GOOD = framed(ID + metadata(array([topic("orders"), HIDDEN])))


def long(length: int, payload: bytes) -> bytes:
    return struct.pack(">i", length) + payload


# To which kind of request, and what the broker says to it.
TRICKS: dict[str, tuple[int, bytes]] = {
    f"{name} to {kind}": (key, said)
    for kind, key in (
        ("a question about topics", METADATA),
        ("a fetch", FETCH),
        ("a question about versions", API_VERSIONS),
    )
    for name, said in {
        "a negative length": long(-1, ID + HIDDEN),
        "no length": long(0, ID + HIDDEN),
        "a length without room for an id": long(3, ID + HIDDEN),
        "another id": framed(b"\0\0\0\x63" + metadata(array([HIDDEN]))),
        "a negative id": framed(b"\xff\xff\xff\xff" + metadata(array([HIDDEN]))),
    }.items()
} | {
    "a length that never comes": (METADATA, long(HUGE, ID + metadata(array([HIDDEN])))),
    "nothing behind the id": (METADATA, framed(ID)),
    "no end of topics": (METADATA, framed(ID + metadata(struct.pack(">i", HUGE) + HIDDEN))),
    "topics less than none": (METADATA, framed(ID + metadata(struct.pack(">i", -2) + HIDDEN))),
    "a name that is longer than all": (METADATA, framed(ID + metadata(long(1, b"\0\0\x7f\xffsecret")))),
    "a name of negative length": (METADATA, framed(ID + metadata(long(1, b"\0\0\xff\xf0secret")))),
    "versions without end": (API_VERSIONS, framed(ID + b"\0\0" + struct.pack(">i", HUGE) + HIDDEN)),
    "two answers": (METADATA, GOOD + GOOD),
    "two answers, the second to nobody": (FETCH, framed(ID) + framed(ID + HIDDEN)),
}


class Broker:
    """Says `words` to each request."""

    def __init__(self, where: Namespace) -> None:
        self.words = b""
        self._socket = netns.run_in(
            where.path, lambda: socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(1 << 16):
                connection.sendall(self.words.replace(ID, data[8:12]))

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        made.write("kafka", POLICY)
        made.start_agent()
        yield made


@pytest.fixture(scope="module")
def broker(node: LiveNode) -> Iterator[Broker]:
    made = Broker(node.backend)
    yield made
    made.close()


def asked(node: LiveNode, key: int) -> bytes:
    """What the client gets."""
    topics = frozenset({"orders"} if key == FETCH else ())
    connection = netns.run_in(
        node.frontend.path, lambda: socket.create_connection((str(node.backend.ipv4), PORT), timeout=10)
    )
    with connection:
        said = request(KafkaRequest(key, 0, "app", topics))
        connection.sendall(said[:-4] + NULL if key == METADATA else said)  # about all topics
        return listen(connection, 0.3)


@pytest.mark.parametrize("trick", TRICKS)
def test_an_answer(node: LiveNode, broker: Broker, trick: str) -> None:
    pid = node.envoy_pid()
    key, broker.words = TRICKS[trick]
    assert b"secret" not in asked(node, key)
    broker.words = GOOD
    shown = asked(node, METADATA)
    assert b"orders" in shown and b"secret" not in shown
    assert node.envoy_pid() == pid
