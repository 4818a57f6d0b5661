"""A gRPC server for a pod: shop.proto with health and reflection.

    python -m lockgate.tests.e2e.grpc_server PORT LOG [CERTIFICATE KEY [CLIENT_CA]]

Every call that arrives is a line of LOG: its method. Answers begin with the client's address. With a certificate (PEM
files) it speaks TLS, and with CLIENT_CA only to who shows a certificate of that authority.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from lockgate.tests.e2e.shop import SHOP


def address(context: grpc.ServicerContext) -> str:
    """Of the client, without its port."""
    _, _, end = unquote(context.peer()).partition(":")
    return str(end.rpartition(":")[0].strip("[]")).removeprefix("::ffff:")


class Catalog:
    """shop.v1.Catalog."""

    def Get(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the method's name
        """`nothing` is not there; everything else is."""
        if request.text == "nothing":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing is not there")
        return SHOP.Text(text=f"{address(context)} {request.text}")

    def List(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """One message a word."""
        for word in request.text.split():
            yield SHOP.Text(text=word)

    def Upload(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:  # noqa: N802
        """All of them."""
        return SHOP.Text(text=" ".join(each.text for each in requests))

    def Chat(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """Each is answered before the next is read."""
        for each in requests:
            yield SHOP.Text(text=each.text.upper())


class Admin:
    """shop.v1.Admin."""

    def Delete(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """Nothing is really deleted."""
        return SHOP.Text(text=f"deleted {request.text}")


class Log(grpc.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Writes down what arrives, before anything is answered."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """One line a call."""
        self._file.write(f"{details.method}\n")
        return continuation(details)


def main(port: int, log: Path, tls: list[Path]) -> None:
    """Serve until killed. `tls` is certificate, key and perhaps authority, or nothing."""
    server = grpc.server(ThreadPoolExecutor(16), interceptors=(Log(log),), options=(("grpc.so_reuseport", 0),))
    SHOP.serve("Catalog", Catalog(), server)
    SHOP.serve("Admin", Admin(), server)
    checks = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    checks.set("shop.v1.Catalog", health_pb2.HealthCheckResponse.SERVING)
    names = ("shop.v1.Catalog", "shop.v1.Admin", health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    if tls:
        certificate, key, *authority = [path.read_bytes() for path in tls]
        shown = grpc.ssl_server_credentials([(key, certificate)], *authority, require_client_auth=bool(authority))
        server.add_secure_port(f"[::]:{port}", shown)
    else:
        server.add_insecure_port(f"[::]:{port}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [Path(word) for word in sys.argv[3:]])
