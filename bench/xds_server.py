"""The xDS server of a bench, in a process of its own: `python -m lockgate.bench.xds_server SOCKET`.

Reads one order a line from standard input, `RESOURCES CONTENT WAIT PORT`: publish that many clusters, of which the
first has this content (all have it when it begins with "all") and leads to 127.0.0.1:PORT, and wait at most WAIT
seconds until every client has answered. Prints one line of JSON: seconds until all ACKed, the monotonic time of the
change, own CPU seconds meanwhile, resident bytes, clients.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from pathlib import Path

from lockgate.xds import CLUSTER, Resource, Snapshot, XdsServer
from lockgate.xds.serve.limits import Limits
from lockgate.xds.wire import frame, number, text


def cluster(name: str, content: str, port: int) -> bytes:
    """A static envoy.config.cluster.v3.Cluster with one endpoint; `content` only makes another version of it."""
    address = text(2, "127.0.0.1") + number(3, port)
    socket_address = frame(1, address)  # Address.socket_address
    lb_endpoint = frame(1, frame(1, socket_address))  # LbEndpoint.endpoint, Endpoint.address
    locality = frame(2, frame(2, lb_endpoint))  # ClusterLoadAssignment.endpoints, LocalityLbEndpoints.lb_endpoints
    return text(1, name) + b"\xe2\x01" + frame(1, content.encode())[1:] + b"\x8a\x02" + _sized(text(1, name) + locality)


def _sized(message: bytes) -> bytes:
    return frame(1, message)[1:]


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def serve(path: Path) -> None:
    """Until standard input ends."""
    server = XdsServer(path, limits=Limits(streams=100_000, nodes=100_000))
    await server.start()
    print(json.dumps({"ready": True}), flush=True)
    held: dict[str, Resource] = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        count, content, wait, port = line.split()
        wanted = {}
        for index in range(int(count)):
            name = f"c{index}"
            told = content if index == 0 or content.startswith("all") else ""
            body = cluster(name, told, int(port) if index == 0 else 9)
            known = held.get(name)
            wanted[name] = known if known is not None and known.body == body else Resource(CLUSTER, name, body)
        held = wanted
        snapshot = Snapshot.of(held.values())
        cpu, began = time.process_time(), time.monotonic()
        settled = await server.settled(await server.publish(snapshot), float(wait))
        report = {
            "outcome": str(settled.outcome),
            "seconds": time.monotonic() - began,
            "published_at": began,
            "cpu": time.process_time() - cpu,
            "rss": resident(),
            "clients": len(server.status().clients),
        }
        print(json.dumps(report), flush=True)
        if settled.acked and gc.get_freeze_count() == 0:
            gc.freeze()  # as the agent does with what it begins with
    await server.stop()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
