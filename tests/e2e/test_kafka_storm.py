"""Hostile bytes against the Kafka filter in a real Envoy: what passes is allowed, and nothing grows without bound."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lockgate.policies import KafkaRequest
from lockgate.tests.e2e import kafka_frames
from lockgate.tests.e2e.kafka_storm import Broker, Stormed, each_at_once, run_tests, stormed, whole_storm

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
CONNECTIONS, SEED = 600, 5
# What the filter may hold for all connections together, and what Envoy's allocator and buffers have beside it.
HELD, ROOM = 256 * MIB, 96 * MIB


@pytest.fixture(scope="module")
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module's test program."""
    binary = tmp_path_factory.mktemp("module") / "tests"
    subprocess.run([ROOT / "scripts" / "fuzz-kafka", "--build", binary], check=True)
    return binary


@pytest.fixture(scope="module")
def policy(tests: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    run_tests(tests, folder, 1, SEED)
    return (folder / "policy").read_text()


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker(SEED, silent=True)
    yield made
    made.close()


@pytest.fixture
def envoy(tmp_path: Path, policy: str, broker: Broker) -> Iterator[Stormed]:
    with stormed(tmp_path, policy, broker) as running:
        yield running
        assert running.alive


def produce(topic: str, number: int = 7) -> bytes:
    return kafka_frames.request(KafkaRequest(kafka_frames.PRODUCE, topics=frozenset({topic}), client_id="app"), number)


def receive(line: socket.socket, least: int) -> bytes:
    """So many bytes, or all until the end."""
    data = b""
    while len(data) < least and (more := line.recv(65536)):
        data += more
    return data


def refused(envoy: Stormed) -> bool:
    """Whether Envoy judges as ever."""
    with envoy.dial() as line:
        line.sendall(produce("secret"))
        return b"secret" in receive(line, 30)


def test_whatever_clients_and_server_send_only_what_is_allowed_arrives(tests: Path, tmp_path: Path) -> None:
    assert "all of them allowed" in whole_storm(tests, tmp_path, CONNECTIONS, SEED)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x7f\xff\xff\xff" + bytes(MIB), id="two gigabytes announced"),
        pytest.param(b"\x00\x00\x00\x01\x00" * 1_000_000, id="a million frames of one byte"),
        pytest.param(os.urandom(MIB), id="noise"),
    ],
)
def test_what_is_no_request_ends_the_connection_at_once(envoy: Stormed, broker: Broker, data: bytes) -> None:
    before, ended = envoy.memory, []

    def send(line: socket.socket) -> None:
        with suppress(ConnectionError):
            line.sendall(data)
        with suppress(ConnectionError):
            assert line.recv(1) == b""
        ended.append(line)

    each_at_once(envoy, 20, send)
    assert len(ended) == 20
    assert not any(broker.streams)
    assert refused(envoy)
    assert envoy.memory - before < ROOM


def test_ten_thousand_requests_that_nobody_answers_are_not_read(envoy: Stormed, broker: Broker) -> None:
    before, sent = envoy.memory, []
    burst = b"".join(produce("orders", number) for number in range(10_000)) * 50

    def send(line: socket.socket) -> None:
        line.settimeout(3)
        sent.append(0)
        mine, at = len(sent) - 1, 0
        while at < len(burst):
            at += line.send(burst[at : at + 65536])
            sent[mine] = at

    each_at_once(envoy, 10, send)
    assert max(sent) < len(burst), "the client is made to wait"
    assert refused(envoy)
    assert envoy.memory - before < ROOM
    passed = max(stream.count(b"orders") for stream in broker.streams)
    assert 1000 <= passed <= 1001, "so many may wait for their responses"


def test_requests_that_never_end_are_held_within_bounds(envoy: Stormed, broker: Broker) -> None:
    """Each must be seen whole before it can be judged, and none ever is."""
    before, most = envoy.allocated, []
    head = struct.pack(">ihhi", 14 * MIB, 19, 0, 1) + kafka_frames.text("app") + struct.pack(">i", 100_000)
    topic = kafka_frames.text("x" * 200) + struct.pack(">ih", 1, 1) + kafka_frames.array([]) + kafka_frames.array([])
    frame = head + topic * (13 * MIB // len(topic))

    def send(line: socket.socket) -> None:
        with suppress(ConnectionError):
            line.sendall(frame)
        most.append(envoy.allocated)

    each_at_once(envoy, 40, send)
    # All of them together would be 520 MiB.
    assert 0 < max(most) - before < HELD + ROOM // 2
    assert not any(broker.streams)
    assert refused(envoy)


def test_slow_senders_wait_alone(envoy: Stormed) -> None:
    before, frame = envoy.memory, produce("secret")
    lines = [envoy.dial() for _ in range(200)]
    for byte in frame[:-1]:
        for line in lines:
            line.sendall(bytes([byte]))
        assert refused(envoy)
    for line in lines:
        line.sendall(frame[-1:])
        assert b"secret" in receive(line, 30)
        line.close()
    assert envoy.memory - before < ROOM
