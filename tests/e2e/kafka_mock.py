"""librdkafka's mock cluster as a broker in a pod. It listens on loopback alone and advertises that, so both ends of a
connection pass a process that carries bytes:

    python kafka_mock.py serve ADDRESS        in the broker's pod; prints the port, which is that of every address here
    python kafka_mock.py reach ADDRESS PORT   in a client's pod, where the cluster is then at 127.0.0.1:PORT
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

LOOPBACK = "127.0.0.1"


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


async def _forward(here: str, there: str, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, on = await asyncio.open_connection(there, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_carry(reader, on), _carry(back, writer))

    server = await asyncio.start_server(connected, here, port)
    print(port, flush=True)
    await server.serve_forever()


def main(what: str, address: str, port: str = "") -> None:
    """Until killed."""
    if what == "reach":
        asyncio.run(_forward(LOOPBACK, address, int(port)))
        return
    from confluent_kafka import Producer

    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    (broker,) = cluster.list_topics(timeout=30).brokers.values()
    asyncio.run(_forward(address, LOOPBACK, broker.port))


if __name__ == "__main__":
    main(*sys.argv[1:])
