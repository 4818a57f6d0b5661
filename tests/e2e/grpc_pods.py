"""gRPC in pods: grpcio's server and client as processes of their own, because grpcio connects from threads of its own.

What a call came to is a `Called`; what reached the server is in `GrpcServer.seen`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lockgate.agent.playground import Pod
from lockgate.tests.e2e.live_node import PATIENCE


@dataclass(frozen=True, slots=True)
class Called:
    """How a call ended: gRPC's status, its message, and the texts of the answers."""

    code: str
    details: str = ""
    texts: tuple[str, ...] = ()


DENIED = Called("PERMISSION_DENIED", "Access denied")


class GrpcServer:
    """shop.proto with health and reflection, in a pod. `tls` are PEM files: certificate, key, perhaps an authority."""

    def __init__(self, pod: Pod, port: int, folder: Path, *tls: Path) -> None:
        self._log = folder / f"{pod.name}-{port}.calls"
        command = [sys.executable, "-P", "-m", "lockgate.tests.e2e.grpc_server", str(port), str(self._log)]
        command += map(str, tls)
        process = pod.popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "serving\n"

    @property
    def seen(self) -> list[str]:
        """The methods that were called."""
        return self._log.read_text().splitlines()


class GrpcClient:
    """One channel from a pod to an address; its connection is kept from call to call. With `tls`, an authority's PEM
    file and the server's name, the channel is in TLS."""

    def __init__(
        self, pod: Pod, ip: object, port: int, patience: float = PATIENCE, tls: tuple[Path, str] | None = None
    ) -> None:
        self._patience = patience
        target = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
        command = [sys.executable, "-P", "-m", "lockgate.tests.e2e.grpc_client", target]
        command += map(str, tls or ())
        self._process = pod.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def call(self, name: str, *texts: str, **metadata: str) -> Called:
        """One call to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        headers = [[key.replace("_", "-"), value] for key, value in metadata.items()]
        wanted = {"call": name, "texts": texts, "metadata": headers, "timeout": self._patience}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Called(answer["code"], answer["details"], tuple(answer["texts"]))

    def __enter__(self) -> GrpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # its input ends, and so does it
