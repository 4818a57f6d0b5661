"""One stream of a client, and what is known about who is at its other end. No I/O: the server reads and writes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from ..snapshot import Snapshot
from .conversation import Conversation
from .limits import Limits
from .node_memory import NodeKey, NodeMemory
from .observer import Observer
from .remote import require_same
from .status import ClientStatus, Moment, TypeClock, TypeStatus

_log = logging.getLogger(__name__)


class Client:
    """One stream and what is known about it."""

    def __init__(
        self,
        memory: Callable[[NodeKey], NodeMemory],
        limits: Limits,
        observer: Observer,
        variant: type[Conversation[Any]],
        type_url: str,
        remote: str | None,
    ) -> None:
        self.node = ""
        self.build = ""
        self.remote = remote  # the node of its certificate; None on the socket
        self._observer = observer
        self.wake = asyncio.Event()
        self.over = False  # nothing more is to be written
        self.dismissed = asyncio.Event()  # the server ends the stream
        self.words = 0  # requests that have come
        self.stream: Conversation[Any] = variant(NodeMemory())  # until the first request tells the node
        self._variant = variant
        self._type_url = type_url
        self._memory = memory
        self._limits = limits
        self.greeted = False
        self._connected = _now()
        self._clock = TypeClock(_now)

    def receive(self, message: bytes) -> str | None:
        """Take a request in; returns the text of a NACK. Raises WireError, IdentityError, LimitError."""
        self.words += 1
        request = self._variant.decode(message)
        if self._type_url:
            # Implicit in requests to the service of one type (DiscoveryRequest.type_url).
            request = replace(request, type_url=self._type_url)
        if not self.greeted:
            self.node = request.node.id if request.node is not None else ""
            require_same(self.remote, self.node)
            self.greeted = True
            memory = self._memory((self.remote, self.node))
            self.build = request.node.build if request.node is not None else ""
            memory.meet(self.build)
            self.stream = self._variant(memory)
            _log.info("xDS client %s connected", self.node or "without a node id")
        nack = self.stream.receive(request)
        self._limits.require(self.stream)
        if request.nonce:
            self._observer.answered(id(self), request.type_url, request.nonce, refused=request.error is not None)
        return nack

    def note(self, snapshot: Snapshot) -> None:
        """Remember since when each type is in its state."""
        for subscription in self.stream.subscriptions.values():
            self._clock.note(subscription, snapshot)

    def status(self, snapshot: Snapshot) -> ClientStatus:
        """What it has now."""
        return ClientStatus(self.node, self._connected, tuple(self._types(snapshot)), self.remote is not None)

    def _types(self, snapshot: Snapshot) -> Iterator[TypeStatus]:
        for subscription in self.stream.subscriptions.values():
            yield self._clock.status(subscription, snapshot)


def _now() -> Moment:
    return Moment(time.monotonic(), time.time())
