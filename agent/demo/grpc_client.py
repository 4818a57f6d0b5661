"""The gRPC client in a client pod: `python -m lockgate.agent.demo.grpc_client`.

Reads one call a line on standard input (`{"target": "10.200.0.6:50051", "path": "/shop.v1.Catalog/Get", "stream":
false, "timeout": 1.0}`) and writes what happened a line on standard output: `{"outcome": "answered", "code": "OK",
"message": ""}`, or outcome `dropped` (no connection within the time). Calls to one target share a channel, so that a
denied call is followed by others on the same connection.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc

_ANSWER_SECONDS = 30.0
_MESSAGES = (b"one", b"two", b"three")


class Client:
    """Its channels by target."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.Channel] = {}

    def call(self, target: str, path: str, stream: bool, timeout: float) -> dict[str, Any]:
        """One call to its end; `timeout` in seconds is for the connection."""
        if (channel := self._channels.get(target)) is None:
            channel = self._channels[target] = grpc.insecure_channel(target, options=(("grpc.enable_http_proxy", 0),))
        try:
            grpc.channel_ready_future(channel).result(timeout)
        except grpc.FutureTimeoutError:
            return {"outcome": "dropped"}
        try:
            if stream:
                answers = list(channel.stream_stream(path)(_messages(), timeout=_ANSWER_SECONDS))
            else:
                answers = [channel.unary_unary(path)(_MESSAGES[0], timeout=_ANSWER_SECONDS)]
        except grpc.RpcError as error:
            return {"outcome": "answered", "code": error.code().name, "message": error.details()}
        whole = len(answers) == (len(_MESSAGES) if stream else 1)
        return {"outcome": "answered", "code": "OK" if whole else "DATA_LOSS", "message": ""}


def _messages() -> Iterator[bytes]:
    yield from _MESSAGES


def main() -> None:
    """Answer lines until standard input ends."""
    client = Client()
    for line in sys.stdin:
        wanted = json.loads(line)
        result = client.call(wanted["target"], wanted["path"], wanted["stream"], float(wanted["timeout"]))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
