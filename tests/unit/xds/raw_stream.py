"""A client that speaks one stream word by word, in either variant of the protocol, to any of the services.

Resources carry their name and a content in fields that all types share, so a client knows them by their bodies, as real
ones do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.google.rpc import Status
from lockgate.xds.serve.server import XdsServer
from lockgate.xds.serve.service import AGGREGATED, SERVICES
from lockgate.xds.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, Resource, Snapshot
from lockgate.xds.wire import fields, text

WAIT = 10.0
TYPES = {"CDS": CLUSTER, "LDS": LISTENER, "RDS": ROUTE, "EDS": ENDPOINTS}


def resource(type_url: str, name: str, content: str = "1") -> Resource:
    """A resource whose body says `name` and `content`."""
    return Resource(type_url, name, text(1, name) + text(15, content))


def snapshot(contents: Mapping[str, Mapping[str, str]]) -> Snapshot:
    """From type URL -> name -> content."""
    return Snapshot.of(
        resource(type_url, name, content) for type_url, named in contents.items() for name, content in named.items()
    )


@dataclass(frozen=True)
class Heard:
    """A response: contents by name, and the names that it removes."""

    type_url: str
    nonce: str
    contents: Mapping[str, str]
    removed: tuple[str, ...] = ()
    version: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)  # of each resource; delta only


class RawStream:
    """What both variants share; the type is that of the service, or `type_url` for the aggregated one.

    A client that is refused for what it is has to listen without a word: when the server ends a stream before what is
    written has left, grpc.aio (1.85) forgets the server's reason and tells "Internal error from Core" from then on.
    """

    method = ""

    def __init__(self, channel: grpc.aio.Channel, *, type_url: str, aggregated: bool, node: str) -> None:
        service = AGGREGATED if aggregated else next(each for each in SERVICES if each.type_url == type_url)
        self.type_url = type_url
        self._said_type = type_url if aggregated else ""
        self._call: Any = channel.stream_stream(f"/{service.name}/{getattr(service, self.method)}")()
        self._node: Node | None = Node(id=node)

    async def _say(self, request: DiscoveryRequest | DeltaDiscoveryRequest) -> None:
        request.node, self._node = self._node, None
        await self._call.write(bytes(request))

    async def _read(self) -> bytes:
        # Not wait_for: that of Python 3.11 swallows a cancellation that comes together with the message.
        async with asyncio.timeout(WAIT):
            message = await self._call.read()
        assert isinstance(message, bytes), "the server ended the stream"
        return message

    async def close(self) -> None:
        """Leave without a word."""
        self._call.cancel()


class DeltaRaw(RawStream):
    """Incremental."""

    method = "delta"

    async def subscribe(self, *names: str, type_url: str | None = None, held: Mapping[str, str] | None = None) -> None:
        """More names; none in the first request is the wildcard."""
        await self._say(
            DeltaDiscoveryRequest(
                type_url=type_url or self._said_type,
                resource_names_subscribe=[*names],
                initial_resource_versions={**(held or {})},
            )
        )

    async def unsubscribe(self, *names: str, type_url: str | None = None) -> None:
        """Fewer names."""
        await self._say(
            DeltaDiscoveryRequest(type_url=type_url or self._said_type, resource_names_unsubscribe=[*names])
        )

    async def hear(self) -> Heard:
        """The next response."""
        response = DeltaDiscoveryResponse.parse(await self._read())
        contents = {}
        for each in response.resources:
            assert each.resource is not None
            name, contents[name] = _told(each.resource.value)
            assert name == each.name and each.resource.type_url == response.type_url
        return Heard(
            response.type_url,
            response.nonce,
            contents,
            tuple(response.removed_resources),
            response.system_version_info,
            {each.name: each.version for each in response.resources},
        )

    async def ack(self, heard: Heard) -> None:
        """Accept a response."""
        await self._say(DeltaDiscoveryRequest(type_url=self._typed(heard), response_nonce=heard.nonce))

    async def nack(self, heard: Heard, error: str) -> None:
        """Refuse a response."""
        detail = Status(code=3, message=error)
        await self._say(
            DeltaDiscoveryRequest(type_url=self._typed(heard), response_nonce=heard.nonce, error_detail=detail)
        )

    def _typed(self, heard: Heard) -> str:
        return heard.type_url if self._said_type else ""


class SotwRaw(RawStream):
    """State of the world; remembers the names, version and nonce of each type, as a client must."""

    method = "stream"

    def __init__(self, channel: grpc.aio.Channel, **options: Any) -> None:
        super().__init__(channel, **options)
        self.names: dict[str, tuple[str, ...]] = {}
        self.versions: dict[str, str] = {}
        self.nonces: dict[str, str] = {}

    async def want(self, *names: str, type_url: str | None = None, nonce: str | None = None) -> None:
        """From now on these names."""
        url = type_url or self.type_url
        self.names[url] = names
        await self._request(url, nonce=nonce)

    async def hear(self) -> Heard:
        """The next response."""
        response = DiscoveryResponse.parse(await self._read())
        assert all(each.type_url == response.type_url for each in response.resources)
        told = [_told(each.value) for each in response.resources]
        assert len(told) == len(dict(told)), "a name came twice"
        return Heard(response.type_url, response.nonce, dict(told), version=response.version_info)

    async def ack(self, heard: Heard) -> None:
        """Accept a response."""
        self.versions[heard.type_url] = heard.version
        self.nonces[heard.type_url] = heard.nonce
        await self._request(heard.type_url)

    async def nack(self, heard: Heard, error: str) -> None:
        """Refuse a response: its nonce with the version before it."""
        self.nonces[heard.type_url] = heard.nonce
        await self._request(heard.type_url, error=Status(code=3, message=error))

    async def _request(self, type_url: str, nonce: str | None = None, error: Status | None = None) -> None:
        await self._say(
            DiscoveryRequest(
                version_info=self.versions.get(type_url, ""),
                resource_names=[*self.names.get(type_url, ())],
                type_url=type_url if self._said_type else "",
                response_nonce=self.nonces.get(type_url, "") if nonce is None else nonce,
                error_detail=error,
            )
        )


def _told(body: bytes) -> tuple[str, str]:
    found = {number: value for number, value in fields(body, "resource") if isinstance(value, bytes)}
    return found[1].decode(), found.get(15, b"").decode()


class Setup:
    """A server and the contents it offers, changed one by one."""

    def __init__(self, server: XdsServer, path: Path) -> None:
        self.server = server
        self.path = path
        self.contents: dict[str, dict[str, str]] = {}

    async def offer(self, type_url: str, names: Iterable[str], content: str) -> int:
        """Add or change resources."""
        self.contents.setdefault(type_url, {}).update(dict.fromkeys(names, content))
        return await self.publish()

    async def withdraw(self, type_url: str, name: str) -> int:
        """Remove one."""
        del self.contents[type_url][name]
        return await self.publish()

    async def publish(self) -> int:
        """What is offered now."""
        return await self.server.publish(snapshot(self.contents))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that no message tells."""
        for _ in range(5000):
            if condition():
                return
            await asyncio.sleep(0.002)
        raise TimeoutError

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{self.path}", options=options) as channel:
            yield channel

    @asynccontextmanager
    async def delta(self, type_url: str, *, aggregated: bool = True, node: str = "n1") -> AsyncIterator[DeltaRaw]:
        """A delta stream."""
        async with self.channel() as channel:
            yield DeltaRaw(channel, type_url=type_url, aggregated=aggregated, node=node)

    @asynccontextmanager
    async def sotw(self, type_url: str, *, aggregated: bool = True, node: str = "n1") -> AsyncIterator[SotwRaw]:
        """A state-of-the-world stream."""
        async with self.channel() as channel:
            yield SotwRaw(channel, type_url=type_url, aggregated=aggregated, node=node)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Setup]:
    """A server on a socket in `folder`."""
    path = folder / "xds.sock"
    server = XdsServer(path)
    await server.start()
    try:
        yield Setup(server, path)
    finally:
        await server.stop()
