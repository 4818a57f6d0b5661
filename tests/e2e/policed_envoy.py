"""An Envoy with a policy of its own, the xDS server that it has it from, and who talks through it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
from lockgate.envoy.config.access_log import LoggedRequest, parse
from lockgate.envoy.config.bootstrap import bootstrap
from lockgate.envoy.config.end import SHARDS
from lockgate.envoy.config.http_listener import HttpListener, http_routes
from lockgate.envoy.config.http_routes import ROUTES
from lockgate.envoy.config.messages import core, http_rbac, matcher, protobuf, rbac
from lockgate.envoy.inspection.admin import Admin
from lockgate.tests.e2e.redirected_envoy import PATIENCE, SERVER, SERVER6, ready, settings, until

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from envoy_data_plane.envoy.service.discovery import v3 as discovery

DENIED = b"Access denied\r\n"


WILDCARDS = (
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.listener.v3.Listener",
)
ROUTE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"


def _routes() -> bytes:
    routes = protobuf.Any(type_url=ROUTE, value=http_routes(HttpListener(), egress=(), ingress=()))
    resource = discovery.Resource(name=ROUTES, version="1", resource=routes)
    return bytes(discovery.DeltaDiscoveryResponse(type_url=ROUTE, nonce="1", resources=[resource]))


class PolicyServer:
    """A delta xDS server that gives every subscriber of a filter the same policy and, `routing`, every one of routes
    those of the listener; and no listeners or clusters. Serves until its block ends."""

    METHOD = "envoy.service.discovery.v3.AggregatedDiscoveryService"

    def __init__(self, run_dir: Path, policy: http_rbac.Rbac, *, routing: bool = True) -> None:
        self._socket = run_dir / "xds-5.sock"
        self._policy = policy
        self._routing = routing
        self._due: asyncio.Queue[bytes] = asyncio.Queue()
        self.version = 1
        self.rejections: list[str] = []

    def change(self, policy: http_rbac.Rbac) -> None:
        self._policy = policy
        self.version += 1
        self._due.put_nowait(self._response())

    def _response(self) -> bytes:
        policy = protobuf.Any.pack(self._policy)
        resources = [
            discovery.Resource(
                name=name,
                version=str(self.version),
                resource=protobuf.Any.pack(core.TypedExtensionConfig(name=name, typed_config=policy)),
            )
            for direction in ("egress", "ingress")
            for name in (f"lockgate.http.{direction}.{number}" for number in range(SHARDS))
        ]
        return bytes(
            discovery.DeltaDiscoveryResponse(
                type_url="type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
                nonce=str(self.version),
                system_version_info=str(self.version),
                resources=resources,
            )
        )

    async def _stream(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        listening = asyncio.create_task(self._listen(context))
        try:
            while True:
                await context.write(await self._due.get())
        finally:
            listening.cancel()

    async def _listen(self, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            request = discovery.DeltaDiscoveryRequest.parse(raw)
            if request.error_detail is not None:
                self.rejections.append(request.error_detail.message)
            if request.type_url == ROUTE:
                if not request.response_nonce and self._routing:
                    self._due.put_nowait(_routes())
            elif request.type_url in WILDCARDS:
                if not request.response_nonce:
                    self._due.put_nowait(bytes(discovery.DeltaDiscoveryResponse(type_url=request.type_url, nonce="0")))
            elif request.resource_names_subscribe:
                self._due.put_nowait(self._response())

    async def __aenter__(self) -> PolicyServer:
        async def stream(_: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            await self._stream(context)

        method = grpc.stream_stream_rpc_method_handler(stream)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(self.METHOD, {"DeltaAggregatedResources": method}),)
        )
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)


def denying(prefix: str) -> http_rbac.Rbac:
    """Allows everything but paths that begin with `prefix`."""
    path = matcher.PathMatcher(path=matcher.StringMatcher(prefix=prefix))
    return http_rbac.Rbac(
        rules=rbac.Rbac(
            action=rbac.RbacAction.DENY,
            policies={
                "default/web:spec.ingress[0]": rbac.Policy(
                    permissions=[rbac.Permission(url_path=path)], principals=[rbac.Principal(any=True)]
                )
            },
        )
    )


class Server:
    """An HTTP/1.1 server that keeps what it received, byte for byte, with the peer that sent it."""

    def __init__(self) -> None:
        self.requests: list[tuple[tuple[str, int], bytes]] = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.requests.append((writer.get_extra_info("peername")[:2], head))
                if b"\r\nUpgrade: websocket" in head:
                    writer.write(b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
                    while data := await reader.read(65536):
                        writer.write(data.upper())
                    return
                status = b"403 Forbidden" if head.startswith(b"GET /forbidden") else b"200 Very Fine"
                writer.write(
                    b"HTTP/1.1 " + status + b"\r\nX-CaSe: Kept\r\nServer: Mine/1\r\nContent-Length: 2\r\n\r\nok"
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    @asynccontextmanager
    async def listening(self, *addresses: str) -> AsyncIterator[Server]:
        servers = [await asyncio.start_server(self._serve, address, 8080) for address in addresses]
        try:
            yield self
        finally:
            for server in servers:
                server.close()


class Client:
    """One connection; `ask` sends raw bytes and returns the raw head and the body of the answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        self.writer.write(request)
        async with asyncio.timeout(PATIENCE):
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return head, await self.reader.readexactly(length)

    def port(self) -> int:
        return int(self.writer.get_extra_info("sockname")[1])


@asynccontextmanager
async def connected(source: str, destination: str) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(destination, 8080, local_addr=(source, 0))
    try:
        yield Client(reader, writer)
    finally:
        writer.close()


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: Api", *headers, "", ""]).encode()


async def denials(run_dir: Path, count: int) -> list[LoggedRequest]:
    log = run_dir / "requests.jsonl"

    async def written() -> bool:
        return log.read_text().count("\n") >= count

    await until(f"{count} denials are logged", written)
    return [parse(line) for line in log.read_text().splitlines()]


@asynccontextmanager
async def policed(run_dir: Path) -> AsyncIterator[tuple[PolicyServer, Admin, Server]]:
    """Envoy with a policy that denies /secret, and a server on both addresses."""
    async with (
        PolicyServer(run_dir, denying("/secret")) as policies,
        ready(run_dir, bootstrap(settings(run_dir))) as admin,
        Server().listening(SERVER, SERVER6) as server,
    ):
        yield policies, admin, server
