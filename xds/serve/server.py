"""The xDS server: grpc.aio on a Unix socket, bytes in, bytes out; every service in both variants of the protocol.

Each client has a reader and a writer of its own and meets the others nowhere, so a slow or dead one delays nobody.
Before the first snapshot is published nothing is answered: an Envoy that comes back after a restart of the agent must
not be told that its resources are gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ..errors import IdentityError, LimitError, SilentClientError, SocketError, UnknownRevision, WireError, XdsError
from ..snapshot import Resource, Snapshot
from .client import Client
from .conversation import Conversation
from .delta import DeltaStream
from .limits import Limits
from .node_memory import NodeKey, NodeMemories, NodeMemory
from .observer import NobodyWatches, Observer
from .remote import Remote, node_of
from .service import SERVICES
from .settled import Hearing, Outcome, Settled
from .sotw import SotwStream
from .status import XdsStatus

_log = logging.getLogger(__name__)

_OPTIONS = (
    ("grpc.max_receive_message_length", 64 << 20),  # initial_resource_versions of a big client
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

_LAST_WRITE_SECONDS = 1.0  # how long a client that is refused has for the response that is on its way
_LONGEST_SOCKET_PATH = 107  # sizeof(sockaddr_un.sun_path) without the final zero


@dataclass(frozen=True, slots=True)
class _Published:
    revision: int
    snapshot: Snapshot


_NOTHING = _Published(0, Snapshot())
_LIMITS = Limits()
# How a stream ends that the server will not go on with.
_ENDINGS: tuple[tuple[type[XdsError], grpc.StatusCode], ...] = (
    (WireError, grpc.StatusCode.INVALID_ARGUMENT),
    (IdentityError, grpc.StatusCode.PERMISSION_DENIED),
    (LimitError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (SilentClientError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


class XdsServer:
    """Serves one snapshot to every client on its socket, and to each remote node its own. Use from one event loop."""

    def __init__(
        self,
        socket_path: Path,
        observer: Observer | None = None,
        remote: Remote | None = None,
        others: Iterable[grpc.GenericRpcHandler] = (),
        limits: Limits = _LIMITS,
    ) -> None:
        """`others` are further services beside those of xDS, on the socket alone."""
        self._path = socket_path
        self._others = tuple(others)
        self._limits = limits
        self._remote = remote
        self.remote_port: int | None = None  # once it listens for remote nodes
        self._observer = observer or NobodyWatches()
        self._servers: list[grpc.aio.Server] = []
        self._published: dict[str | None, _Published] = {}  # by remote node; None is for the socket
        self._clients: dict[int, Client] = {}
        self._memories = NodeMemories(limits.nodes)
        self._watchers: set[asyncio.Future[None]] = set()

    async def start(self) -> None:
        """Listen. The socket appears at its path when it is ready, for the owner only (mode 0600); a stale one is
        replaced. Raises SocketError, RemoteError."""
        if len(os.fsencode(self._path)) > _LONGEST_SOCKET_PATH:
            raise SocketError(
                self._path, f"the path is longer than {_LONGEST_SOCKET_PATH} bytes; use a shorter run dir"
            )
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((*self._handlers(), *self._others))
        servers = [server]
        if self._remote is not None:
            # A server of its own, so that whatever remote clients use up is not taken from the node's own Envoy.
            distant, self.remote_port = self._remote.server(self._handlers())
            servers.append(distant)
        # Bind where nobody else can look, set the mode, then move: the socket is never open to others.
        nest = self._path.with_name(f".{os.getpid():x}")
        hatching = nest / "s"
        try:
            nest.mkdir(mode=0o700, exist_ok=True)
            hatching.unlink(missing_ok=True)
            server.add_insecure_port(f"unix:{hatching}")
            hatching.chmod(0o600)
            hatching.replace(self._path)
        except (OSError, RuntimeError) as error:
            raise SocketError(self._path, str(error)) from error
        finally:
            if nest.is_dir():
                hatching.unlink(missing_ok=True)
                nest.rmdir()
        for each in servers:
            await each.start()
        self._servers = servers

    async def publish(self, snapshot: Snapshot, node: str | None = None) -> int:
        """Offer a snapshot in place of the former one: to the clients on the socket, or to one remote node. Returns its
        revision, which each node counts for itself. Does not wait for any client."""
        latest = self._published[node] = _Published(self._latest(node).revision + 1, snapshot)
        for client in self._clients_of(node):
            client.wake.set()
        return latest.revision

    async def settled(
        self,
        revision: int,
        timeout: float,  # noqa: ASYNC109  a timeout is an answer here
        node: str | None = None,
    ) -> Settled:
        """Wait until every connected client (of `node`, see `publish`) has answered for everything in the snapshot of
        `revision` or a later one.

        A client counts only once it has asked for all resources of the snapshot. Without a client it waits for one.
        Raises UnknownRevision.
        """
        latest = self._latest(node)
        if not 0 < revision <= latest.revision:
            raise UnknownRevision(revision, latest.revision)
        deadline = time.monotonic() + timeout
        while (answer := self._answer(revision, node)) is None:
            left = deadline - time.monotonic()
            changed = asyncio.get_running_loop().create_future()
            self._watchers.add(changed)
            try:
                # Not wait_for: that of Python 3.11 swallows a cancellation that comes together with the news.
                async with asyncio.timeout(max(left, 0)):
                    await changed
            except TimeoutError:
                last = self._answer(revision, node)
                return last or Settled(Outcome.TIMEOUT if self._clients_of(node) else Outcome.NO_CLIENT)
            finally:
                self._watchers.discard(changed)
        return answer

    def status(self) -> XdsStatus:
        """Every connected client, with the state of each type it asked for."""
        return XdsStatus(
            self._latest(None).revision,
            tuple(client.status(self._latest(client.remote).snapshot) for client in self._clients.values()),
        )

    def offered(self, type_url: str) -> Mapping[str, Resource]:
        """What is published of a type for this machine's Envoys, by name."""
        return self._latest(None).snapshot.of_type(type_url)

    def build_of(self, node: str) -> str:
        """Of the client of a remote node that came last (see discovery.Node); empty while none is there."""
        return next((client.build for client in reversed(self._clients_of(node)) if client.greeted), "")

    def send_again(self, node: str, type_url: str, names: Iterable[str]) -> None:
        """Send what is published of these to a node's streams once more, though they confirmed it."""
        names = tuple(names)
        for client in self._clients.values():
            subscription = client.stream.subscriptions.get(type_url)
            if client.node == node and subscription is not None:
                subscription.owe(names)
                client.wake.set()

    def hearing(self, node: str) -> Hearing:
        """Whether the Envoys of this machine that have this id answer to what is published."""
        clients = self._own(node)
        behind = self._latest(None).revision > 0 and not (clients and all(map(self._is_done, clients)))
        return Hearing(bool(clients), behind, sum(client.words for client in clients))

    def end_unanswered(self, node: str) -> int:
        """End the streams of these that have not answered, so that they make others; how many there were."""
        found = [client for client in self._own(node) if not self._is_done(client)]
        for client in found:
            client.dismissed.set()
        return len(found)

    async def stop(self) -> None:
        """Close every stream and remove the socket. Clients keep what they have."""
        if self._servers:
            for server in self._servers:
                await server.stop(grace=None)
            self._servers = []
            self._path.unlink(missing_ok=True)

    def _latest(self, node: str | None) -> _Published:
        return self._published.get(node, _NOTHING)

    def _clients_of(self, node: str | None) -> list[Client]:
        return [client for client in self._clients.values() if client.remote == node]

    def _own(self, node: str) -> list[Client]:
        return [client for client in self._clients_of(None) if client.greeted and client.node == node]

    def _is_done(self, client: Client) -> bool:
        latest = self._latest(client.remote)
        return client.stream.has_answered(latest.snapshot, latest.revision)

    def _answer(self, revision: int, node: str | None) -> Settled | None:
        clients = self._clients_of(node)
        if not clients:
            return None
        latest = self._latest(node)
        if not all(client.stream.has_answered(latest.snapshot, revision) for client in clients):
            return None
        errors = {
            where: text for client in clients for where, text in client.stream.rejections(latest.snapshot).items()
        }
        return Settled(Outcome.NACKED if errors else Outcome.ACKED, tuple(sorted(errors.items())))

    def _tell_watchers(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _handlers(self) -> Iterator[grpc.GenericRpcHandler]:
        for service in SERVICES:
            methods = {
                method: grpc.stream_stream_rpc_method_handler(partial(self._talk, variant, service.type_url))
                for method, variant in ((service.delta, DeltaStream), (service.stream, SotwStream))
            }
            yield grpc.method_handlers_generic_handler(service.name, methods)

    async def _talk(
        self,
        variant: type[Conversation[Any]],
        type_url: str,
        _requests: object,
        context: grpc.aio.ServicerContext[bytes, bytes],
    ) -> None:
        """One stream, from its first request to its end; `type_url` is empty where requests say it."""
        try:
            client = self._admit(variant, type_url, context)
        except XdsError as error:
            await self._refuse(error, context)
            return
        self._clients[id(client)] = client
        try:
            await self._serve(client, context)
        except asyncio.CancelledError:
            pass  # grpc.aio's word for "the client is gone" or "the server stops"; let through, it is logged as a fault
        except XdsError as error:
            await self._refuse(error, context)
        finally:
            del self._clients[id(client)]
            self._observer.left(id(client))
            _log.info("xDS client %s left", client.node or "without a node id")
            self._tell_watchers()

    def _admit(
        self, variant: type[Conversation[Any]], type_url: str, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> Client:
        """Raises IdentityError, LimitError."""
        remote = node_of(context)
        if remote is not None and self._remote is not None:
            self._remote.require_served(remote)
        most = self._limits.streams if remote is None else self._limits.streams_per_node
        if len(self._clients_of(remote)) >= most:
            whose = f"node {remote}" if remote is not None else "the local socket"
            raise LimitError(f"{whose} has {most} xDS streams already; end one of its clients")
        return Client(self._memory, self._limits, self._observer, variant, type_url, remote)

    async def _refuse(self, error: XdsError, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        _log.warning("xDS client %s refused: %s", context.peer(), error)
        self._observer.refused()
        code = next((code for kind, code in _ENDINGS if isinstance(error, kind)), grpc.StatusCode.INTERNAL)
        await context.abort(code, str(error))

    def _memory(self, key: NodeKey) -> NodeMemory:
        return self._memories.of(key, {(client.remote, client.node) for client in self._clients.values()})

    async def _serve(self, client: Client, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        work = (self._read(client, context), self._write(client, context), _until_dismissed(client))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # gRPC cannot tell a client why its stream ends while a response is being written.
            client.over = True
            client.wake.set()
            await asyncio.wait(tasks[1:2], timeout=_LAST_WRITE_SECONDS)
            for task in done:
                await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, client: Client, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while True:
            try:
                async with asyncio.timeout(None if client.greeted else self._limits.greeting):
                    message = await context.read()
            except TimeoutError:
                raise SilentClientError(
                    f"no request within {self._limits.greeting:g} s; the stream is closed"
                ) from None
            if not isinstance(message, bytes):  # grpc.aio.EOF: the client has closed its side
                return
            nack = client.receive(message)
            if nack is not None:
                _log.error("Envoy %s refused a resource and keeps the last good one: %s", client.node, nack)
            client.wake.set()

    async def _write(self, client: Client, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        while not client.over:
            await client.wake.wait()
            client.wake.clear()
            latest = self._latest(client.remote)
            if latest.revision == 0:
                continue
            responses = client.stream.due(latest.snapshot, latest.revision)
            client.note(latest.snapshot)
            self._tell_watchers()
            for response in responses:
                if client.over:
                    return
                self._observer.sent(id(client), response.type_url, response.nonce)
                await context.write(response.encode())


async def _until_dismissed(client: Client) -> None:
    """Raises SilentClientError."""
    await client.dismissed.wait()
    raise SilentClientError("it has not answered to what it was told; the stream is closed, and another is awaited")
