"""A gRPC client for a pod. One call a line in, what came of it out.

    python -m lockgate.tests.e2e.grpc_client TARGET [AUTHORITY NAME]

With an authority (a PEM file) it speaks TLS, and the server must have a certificate for NAME.

In: {"call": "Catalog/Chat", "texts": ["a", "b"], "metadata": [["x-team", "a"]], "timeout": 30}, with "health" and
"reflection" as calls of their own. Out: {"code": "OK", "details": "", "texts": [...]}. All calls go through one
channel: grpcio keeps its connection as long as it can.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from lockgate.tests.e2e.shop import SHOP


def converse(stub: Any, texts: list[str], how: dict[str, Any]) -> Iterator[str]:
    """Says the next thing only when the last was answered: nothing on the way may hold messages back."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def say() -> Iterator[Any]:
        while (text := waiting.get()) is not None:
            yield SHOP.Text(text=text)

    answers = stub.Chat(say(), **how)
    try:
        for text in texts:
            waiting.put(text)
            yield next(answers).text
        waiting.put(None)
        yield from (each.text for each in answers)
    finally:
        waiting.put(None)


def call(channel: grpc.Channel, name: str, texts: list[str], how: dict[str, Any]) -> list[str]:
    """What the server answers. Raises grpc.RpcError."""
    catalog, admin = SHOP.stub("Catalog", channel), SHOP.stub("Admin", channel)
    match name:
        case "Catalog/Get":
            return [catalog.Get(SHOP.Text(text=texts[0]), **how).text]
        case "Catalog/List":
            return [each.text for each in catalog.List(SHOP.Text(text=texts[0]), **how)]
        case "Catalog/Upload":
            return [catalog.Upload((SHOP.Text(text=text) for text in texts), **how).text]
        case "Catalog/Chat":
            return list(converse(catalog, texts, how))
        case "Admin/Delete":
            return [admin.Delete(SHOP.Text(text=texts[0]), **how).text]
        case "health":
            checks = health_pb2_grpc.HealthStub(channel)
            answer = checks.Check(health_pb2.HealthCheckRequest(service="shop.v1.Catalog"), **how)
            return [health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)]
        case "reflection":
            return sorted(ProtoReflectionDescriptorDatabase(channel).get_services())
    raise ValueError(name)


def dial(target: str, authority: str = "", name: str = "") -> grpc.Channel:
    """A channel, in TLS if there is an authority to trust."""
    direct = (("grpc.enable_http_proxy", 0),)
    if not authority:
        return grpc.insecure_channel(target, options=direct)
    trusting = grpc.ssl_channel_credentials(Path(authority).read_bytes())
    return grpc.secure_channel(target, trusting, options=(*direct, ("grpc.ssl_target_name_override", name)))


def main(*words: str) -> None:
    """Answer lines until standard input ends."""
    with dial(*words) as channel:
        for line in sys.stdin:
            wanted = json.loads(line)
            try:
                how = {"metadata": [(key, value) for key, value in wanted["metadata"]], "timeout": wanted["timeout"]}
                texts = call(channel, wanted["call"], wanted["texts"], how)
                result = {"code": "OK", "details": "", "texts": texts}
            except grpc.RpcError as error:
                result = {"code": error.code().name, "details": error.details(), "texts": []}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
