"""gRPC by service and method: unary calls and streams, over one connection for each client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .part import DemoPod, Part, PartName

PORT = 50051


@dataclass(frozen=True, slots=True)
class GrpcCall:
    """One call; see `part.DemoRequest`. `stream` is one in both directions."""

    client: str
    service: str
    method: str
    family: int = 4
    stream: bool = False
    server: str = "catalog"
    program: str = "lockgate.agent.demo.grpc_client"

    def flow(self, address: str) -> dict[str, Any]:
        """As `policy explain` takes it."""
        grpc = {"service": self.service, "method": self.method}
        names = {"from": f"default/{self.client}", "to": f"default/{self.server}"}
        return {**names, "port": PORT, "protocol": "TCP", "grpc": grpc}

    def order(self, address: str, timeout: float) -> dict[str, Any]:
        """As the client takes it."""
        target = f"[{address}]:{PORT}" if self.family == 6 else f"{address}:{PORT}"
        path = f"/{self.service}/{self.method}"
        return {"target": target, "path": path, "stream": self.stream, "timeout": timeout}

    def passed(self, result: Mapping[str, Any]) -> bool:
        """What the server itself says counts as passed, unless it speaks like a policy."""
        denied = (result.get("code"), result.get("message")) == ("PERMISSION_DENIED", "Access denied")
        return bool(result["outcome"] == "answered" and not denied)

    def words(self, result: Mapping[str, Any]) -> str:
        """The status' name, with its message unless all is well."""
        if result["outcome"] != "answered":
            return str(result["outcome"])
        return "OK" if result["code"] == "OK" else f"{result['code']} {result['message']}"

    def __str__(self) -> str:
        return f"gRPC{' stream' if self.stream else ''} :{PORT}/{self.service}/{self.method}"


GRPC = Part(
    PartName.GRPC,
    pods=(
        DemoPod("catalog", {"app": "catalog"}, PORT, "lockgate.agent.demo.grpc_server"),
        DemoPod("shop", {"app": "shop"}),
        DemoPod("back-office", {"app": "back-office"}),
        DemoPod("intruder", {"app": "intruder"}),
    ),
    policies=("grpc-methods.yaml",),
    requests=(
        GrpcCall("shop", "shop.v1.Catalog", "Get"),
        GrpcCall("shop", "shop.v1.Catalog", "Watch", stream=True),
        GrpcCall("shop", "shop.v1.Admin", "Delete"),
        GrpcCall("shop", "shop.v1.Catalog", "Get", family=6),
        GrpcCall("shop", "grpc.health.v1.Health", "Watch", family=6, stream=True),
        GrpcCall("back-office", "shop.v1.Admin", "Delete", family=6),
        GrpcCall("back-office", "shop.v1.Catalog", "Get", family=6),
        GrpcCall("back-office", "shop.v1.Admin", "Delete", family=6),
        GrpcCall("intruder", "shop.v1.Catalog", "Get"),
    ),
)
