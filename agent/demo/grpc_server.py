"""The gRPC server in a server pod: `python -m lockgate.agent.demo.grpc_server --port 50051 --log FILE`.

Every method of every service is there: it answers each message with one that names the server. What it saw goes to its
log, one JSON object a line: what arrives here has passed the policy, with the address the client really has.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc


class AnyMethod(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """A stream in both directions, which serves a unary client as well."""

    def __init__(self, name: str, log: Path) -> None:
        self._name = name
        self._log = log.open("a", buffering=1)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Whatever method was asked for."""

        def answer(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            self._log.write(json.dumps({"client": _address(context.peer()), "method": details.method}) + "\n")
            for request in requests:
                yield f"{self._name}: ".encode() + request

        return grpc.stream_stream_rpc_method_handler(answer)


def _address(peer: str) -> str:
    """The address in ipv4:10.200.0.2:4242 or ipv6:[fd00:200::2]:4242."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]").removeprefix("::ffff:")


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="gRPC server of a demonstration pod")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", default="server")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    handlers: Any = (AnyMethod(options.name, options.log),)
    server = grpc.server(ThreadPoolExecutor(8), handlers=handlers, options=(("grpc.so_reuseport", 0),))
    server.add_insecure_port(f"[::]:{options.port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
