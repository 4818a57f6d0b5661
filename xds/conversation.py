"""One stream's talk with a client about all its resource types, whatever the protocol's variant. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from .discovery import DeltaRequest, DeltaResponse, WholeRequest, WholeResponse
from .node_memory import NodeMemory
from .snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, Snapshot
from .subscription import Subscription, Update

# What others refer to goes first (#eventual-consistency-considerations); other types follow as they were asked for.
_ORDER = {CLUSTER: 0, ENDPOINTS: 1, SECRET: 2, LISTENER: 3, ROUTE: 4}


Request = TypeVar("Request", DeltaRequest, WholeRequest)


class Conversation(ABC, Generic[Request]):
    """Each type is walled off from the others and has nonces of its own."""

    def __init__(self, memory: NodeMemory) -> None:
        self.memory = memory
        self._subscriptions: dict[str, Subscription] = {}

    @staticmethod
    @abstractmethod
    def decode(message: bytes) -> Request:
        """A request off the wire. Raises WireError."""

    @abstractmethod
    def receive(self, request: Request) -> str | None:
        """Take a request in; returns the text of a NACK, else None."""

    @abstractmethod
    def due(self, snapshot: Snapshot, revision: int) -> Sequence[DeltaResponse | WholeResponse]:
        """The responses to send now."""

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By type URL."""
        return MappingProxyType(self._subscriptions)

    def add(self, subscription: Subscription) -> Subscription:
        """The client asks for this type for the first time."""
        self._subscriptions[subscription.type_url] = subscription
        return subscription

    def updates(self, snapshot: Snapshot, revision: int) -> Iterator[tuple[Subscription, Update]]:
        """What to send now, in the order that make-before-break wants."""
        for type_url in sorted(self._subscriptions, key=lambda url: _ORDER.get(url, len(_ORDER))):
            subscription = self._subscriptions[type_url]
            for update in subscription.due(snapshot.of_type(type_url), revision):
                yield subscription, update

    def has_answered(self, snapshot: Snapshot, revision: int) -> bool:
        """True when the client asked for everything in the snapshot and has ACKed or NACKed it, or what replaced it."""
        for type_url, named in snapshot.types.items():
            subscription = self._subscriptions.get(type_url)
            if named and (
                subscription is None or not subscription.wants_all(named) or subscription.settled_through < revision
            ):
                return False
        return all(subscription.settled_through >= revision for subscription in self._subscriptions.values())

    def rejections(self, snapshot: Snapshot) -> dict[tuple[str, str], str]:
        """(type URL, name) -> the client's text, for the snapshot's resources that it refused."""
        return {
            (type_url, name): error
            for type_url, subscription in self._subscriptions.items()
            for name, resource in snapshot.of_type(type_url).items()
            if (error := subscription.rejection(resource)) is not None
        }
