"""Many delta clients of the xDS server in one process: `python -m lockgate.bench.xds_clients SOCKET COUNT`.

Each has a connection of its own, asks for all clusters and ACKs whatever comes. Prints `ready` when each has had its
first response, and ends with standard input.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
from lockgate.xds.serve.service import AGGREGATED
from lockgate.xds.snapshot import CLUSTER
from lockgate.xds.wire import fields, frame, text

_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]


async def client(path: str, number: int, first: asyncio.Semaphore) -> None:
    """Until it is cancelled."""
    async with grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS) as channel:
        call: Any = channel.stream_stream(f"/{AGGREGATED.name}/{AGGREGATED.delta}")()
        await call.write(frame(1, text(1, f"node-{number}")) + text(2, CLUSTER))
        answered = False
        while isinstance(message := await call.read(), bytes):
            nonce = next(value for field, value in fields(message, "response") if field == 5)
            assert isinstance(nonce, bytes)
            await call.write(text(2, CLUSTER) + frame(6, nonce))
            if not answered:
                answered = True
                first.release()


async def run(path: str, count: int) -> None:
    """Until standard input ends."""
    first = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(client(path, number, first)) for number in range(count)]
    for _ in range(count):
        await first.acquire()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2])))
