"""The incremental face of the protocol: one stream's delta requests in, delta responses out. No I/O.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .discovery import DeltaRequest, DeltaResponse
from .node_memory import NodeMemory
from .snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, Snapshot
from .subscription import Subscription

# What others refer to goes first (#eventual-consistency-considerations); other types follow as they were asked for.
_ORDER = {CLUSTER: 0, ENDPOINTS: 1, SECRET: 2, LISTENER: 3, ROUTE: 4}


class DeltaStream:
    """All types of one ADS stream; each type is walled off from the others and has nonces of its own."""

    def __init__(self, memory: NodeMemory) -> None:
        self._memory = memory
        self._subscriptions: dict[str, Subscription] = {}

    @property
    def subscriptions(self) -> Mapping[str, Subscription]:
        """By type URL."""
        return MappingProxyType(self._subscriptions)

    def receive(self, request: DeltaRequest) -> str | None:
        """Take a request in; returns the text of a NACK, else None.

        A stale or unknown nonce makes the ACK or NACK void, while the subscription change beside it still counts.
        """
        subscription = self._subscriptions.get(request.type_url)
        if subscription is None:
            subscription = Subscription(request.type_url, self._memory.of_type(request.type_url))
            self._subscriptions[request.type_url] = subscription
            subscription.begin(request.subscribe, request.initial_versions)
            return None
        nacked = False
        if request.error is not None:
            nacked = subscription.reject(request.nonce, request.error)
        elif request.nonce:
            subscription.acknowledge(request.nonce)
        subscription.unsubscribe(request.unsubscribe)
        subscription.subscribe(request.subscribe)
        return request.error if nacked else None

    def due(self, snapshot: Snapshot, revision: int) -> list[DeltaResponse]:
        """The responses to send now, in the order that make-before-break wants."""
        return [
            DeltaResponse(type_url, update.nonce, update.resources, update.removed, str(revision))
            for type_url in sorted(self._subscriptions, key=lambda url: _ORDER.get(url, len(_ORDER)))
            for update in self._subscriptions[type_url].due(snapshot.of_type(type_url), revision)
        ]

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
