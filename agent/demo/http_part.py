"""The article's two policies: one of L4, one of HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .part import DemoPod, Part, PartName

_SERVER = "lockgate.agent.demo.server"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request; see `part.DemoRequest`."""

    client: str
    server: str
    port: int
    method: str
    path: str
    family: int = 4
    program: str = "lockgate.agent.demo.client"

    def flow(self, address: str) -> dict[str, Any]:
        """As `policy explain` takes it."""
        http = {"method": self.method, "path": self.path, "host": self.host(address)}
        names = {"from": f"default/{self.client}", "to": f"default/{self.server}"}
        return {**names, "port": self.port, "protocol": "TCP", "http": http}

    def order(self, address: str, timeout: float) -> dict[str, Any]:
        """As the client takes it."""
        return {"url": self.url(address), "method": self.method, "timeout": timeout}

    def host(self, address: str) -> str:
        """The Host header the client sends for `address`."""
        literal = f"[{address}]" if self.family == 6 else address
        return literal if self.port == 80 else f"{literal}:{self.port}"

    def url(self, address: str) -> str:
        """The URL the client asks for."""
        return f"http://{self.host(address)}{self.path}"

    def passed(self, result: Mapping[str, Any]) -> bool:
        """A refused connection got through: the pod's own kernel refused it."""
        if result["outcome"] == "answered":
            return not (result["status"] == 403 and result["body"] == "Access denied\r\n")
        return bool(result["outcome"] == "refused")

    def words(self, result: Mapping[str, Any]) -> str:
        """The status, with the body unless all is well."""
        if result["outcome"] != "answered":
            return str(result["outcome"])
        first = str(result["body"]).strip()
        return f"{result['status']} {first}" if result["status"] != 200 else "200"

    def __str__(self) -> str:
        return f"{self.method} :{self.port}{self.path}"


HTTP = Part(
    PartName.HTTP,
    pods=(
        DemoPod("frontend", {"app": "frontend", "role": "frontend"}),
        DemoPod("intruder", {"app": "intruder"}),
        DemoPod("backend", {"app": "backend"}, 8080, _SERVER),
        DemoPod("api-server", {"app": "api-server"}, 80, _SERVER),
    ),
    policies=("allow-frontend-to-backend.yaml", "api-access-control.yaml"),
    requests=(
        HttpRequest("frontend", "backend", 8080, "GET", "/"),
        HttpRequest("frontend", "backend", 8080, "POST", "/orders", family=6),
        HttpRequest("intruder", "backend", 8080, "GET", "/"),
        HttpRequest("intruder", "backend", 8080, "GET", "/", family=6),
        HttpRequest("frontend", "api-server", 80, "GET", "/api/v1/users"),
        HttpRequest("frontend", "api-server", 80, "GET", "/api/v1/users", family=6),
        HttpRequest("frontend", "api-server", 80, "POST", "/api/v1/users"),
        HttpRequest("frontend", "api-server", 80, "GET", "/api/v1/users?all=1"),
        HttpRequest("frontend", "api-server", 80, "GET", "/api/v1/admin", family=6),
        HttpRequest("intruder", "api-server", 80, "GET", "/api/v1/users"),
        HttpRequest("intruder", "api-server", 80, "GET", "/api/v1/users", family=6),
        HttpRequest("backend", "frontend", 9999, "GET", "/"),
    ),
)
