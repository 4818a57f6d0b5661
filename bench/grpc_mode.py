"""Ways for unary gRPC calls to reach a server: direct, through the node's Envoy with and without a policy for calls,
and through a sidecar pair. Before it is timed each is checked by grpcio's own client."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, ClassVar

from lockgate.agent.playground import Pod

from .direct import Direct
from .errors import CheckError
from .mode import PORT, Mode, spawn
from .policed import Policed, policy_for
from .sidecar import SidecarPair, configuration

SERVICE = "bench.v1.Echo"
ALLOWED = f"/{SERVICE}/Get"
FORBIDDEN = f"/{SERVICE}/Delete"
_CHECKED_CALLS = 8
_DROP_SECONDS = 0.7


class GrpcMode(Mode):
    """Its origin answers every call with the message it got, and the status OK as a trailer."""

    OK: ClassVar[str] = "OK"
    DENIED: ClassVar[str] = "PERMISSION_DENIED"

    def _serve(self) -> subprocess.Popen[bytes]:
        pages = self.directory / "pages"
        pages.mkdir()
        command = [
            "nghttpd",
            "--no-tls",
            "--echo-upload",
            "--trailer",
            "grpc-status: 0",
            "-n",
            str(self.ground.threads),
        ]
        return spawn(self.server, [*command, "-d", pages, str(PORT)])

    @property
    def url(self) -> str:
        return f"http://{self.server.ipv4}:{PORT}{ALLOWED}"

    def check(self) -> None:
        """Raises CheckError: naming the call, what was expected and what came."""
        before = self.counted()
        self._expect_calls(self.client, [ALLOWED] * _CHECKED_CALLS, self.OK)
        self.require_path(before, _CHECKED_CALLS, _CHECKED_CALLS)
        self._expect_calls(self.client, [FORBIDDEN], self.forbidden)
        self._expect_calls(self.intruder, [ALLOWED], self.intruder_gets)

    def _expect_calls(self, pod: Pod, paths: list[str], wanted: str) -> None:
        target = f"{self.server.ipv4}:{PORT}"
        orders = [{"target": target, "path": path, "stream": False, "timeout": _DROP_SECONDS} for path in paths]
        command = [sys.executable, "-P", "-m", "lockgate.agent.demo.grpc_client"]
        ended = pod.run(command, input="".join(json.dumps(order) + "\n" for order in orders))
        results: list[dict[str, Any]] = [json.loads(line) for line in ended.stdout.splitlines()]
        came = [result.get("code", result["outcome"]) for result in results]
        if came != [wanted] * len(paths):
            raise CheckError(f"{self.title}: {paths[0]} from {pod.name} gave {came or ended.stderr}, expected {wanted}")


class GrpcDirect(GrpcMode, Direct):
    """No policy and no proxy."""

    key = "direct"
    title = "direct"
    forbidden = GrpcMode.OK
    intruder_gets = GrpcMode.OK


class GrpcOpen(GrpcMode, Policed):
    """Through the node's Envoy by a rule that allows every request: HTTP without a policy for calls."""

    key = "open"
    title = "Envoy, no policy"
    forbidden = GrpcMode.OK
    intruder_gets = "dropped"
    proxied = True
    policy = policy_for("server", "http: [{}]")


class GrpcPoliced(GrpcMode, Policed):
    """Through the node's Envoy, one method of a service allowed."""

    key = "policed"
    title = "Envoy, gRPC rule"
    forbidden = GrpcMode.DENIED
    intruder_gets = "dropped"
    proxied = True
    policy = policy_for("server", f"grpc: [{{service: {SERVICE}, method: Get}}]")


class GrpcSidecars(GrpcMode, SidecarPair):
    """Two passes through two Envoys, the server's with the same rule."""

    key = "sidecar"
    title = "sidecar pair"
    forbidden = GrpcMode.DENIED
    intruder_gets = GrpcMode.DENIED

    def _configuration(self, pod: Pod) -> dict[str, Any]:
        return configuration(self._admin(pod), self.client.ipv4, "POST", ALLOWED, http2=True)


__all__ = ["GrpcDirect", "GrpcMode", "GrpcOpen", "GrpcPoliced", "GrpcSidecars"]
