"""Who asks whom for what in the demonstration. Pure data; what is expected is never written here: `policy explain` says
it, and the real requests must agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DemoPod:
    """One pod; `port` 0 has no server."""

    name: str
    labels: dict[str, str]
    port: int = 0


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """One HTTP request from a pod to another, over IPv4 (`family` 4) or IPv6."""

    client: str
    server: str
    port: int
    method: str
    path: str
    family: int = 4
    headers: dict[str, str] = field(default_factory=dict)

    def flow(self, address: str) -> dict[str, Any]:
        """The same request as a flow for `policy explain`."""
        host = self.host(address)
        http = {"method": self.method, "path": self.path, "host": host, "headers": self.headers}
        names = {"from": f"default/{self.client}", "to": f"default/{self.server}"}
        return {**names, "port": self.port, "protocol": "TCP", "http": http}

    def host(self, address: str) -> str:
        """The Host header the client sends for `address`."""
        literal = f"[{address}]" if self.family == 6 else address
        return literal if self.port == 80 else f"{literal}:{self.port}"

    def url(self, address: str) -> str:
        """The URL the client asks for."""
        return f"http://{self.host(address)}{self.path}"


PODS = (
    DemoPod("frontend", {"app": "frontend", "role": "frontend"}),
    DemoPod("intruder", {"app": "intruder"}),
    DemoPod("backend", {"app": "backend"}, port=8080),
    DemoPod("api-server", {"app": "api-server"}, port=80),
)

REQUESTS = (
    DemoRequest("frontend", "backend", 8080, "GET", "/"),
    DemoRequest("frontend", "backend", 8080, "POST", "/orders", family=6),
    DemoRequest("intruder", "backend", 8080, "GET", "/"),
    DemoRequest("intruder", "backend", 8080, "GET", "/", family=6),
    DemoRequest("frontend", "api-server", 80, "GET", "/api/v1/users"),
    DemoRequest("frontend", "api-server", 80, "GET", "/api/v1/users", family=6),
    DemoRequest("frontend", "api-server", 80, "POST", "/api/v1/users"),
    DemoRequest("frontend", "api-server", 80, "GET", "/api/v1/users?all=1"),
    DemoRequest("frontend", "api-server", 80, "GET", "/api/v1/admin", family=6),
    DemoRequest("intruder", "api-server", 80, "GET", "/api/v1/users"),
    DemoRequest("intruder", "api-server", 80, "GET", "/api/v1/users", family=6),
    DemoRequest("backend", "frontend", 9999, "GET", "/"),
)

POLICIES = ("allow-frontend-to-backend.yaml", "api-access-control.yaml")
