"""The incremental face of the protocol: one stream's delta requests in, delta responses out. No I/O.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#incremental-xds
"""

from __future__ import annotations

from ..snapshot import Snapshot
from .conversation import Conversation
from .discovery import DeltaRequest, DeltaResponse
from .subscription import Subscription


class DeltaStream(Conversation[DeltaRequest]):
    """Several responses of a type may be on their way at once; each is answered by its nonce."""

    @staticmethod
    def decode(message: bytes) -> DeltaRequest:
        """A request off the wire. Raises WireError."""
        return DeltaRequest.decode(message)

    def receive(self, request: DeltaRequest) -> str | None:
        """Take a request in; returns the text of a NACK, else None.

        A stale or unknown nonce makes the ACK or NACK void, while the subscription change beside it still counts.
        """
        subscription = self.subscriptions.get(request.type_url)
        if subscription is None:
            subscription = self.add(Subscription(request.type_url, self.memory.of_type(request.type_url)))
            subscription.begin(request.subscribe, request.initial_versions)
            return None
        nacked = self.answer(subscription, request.nonce, request.error)
        subscription.unsubscribe(request.unsubscribe)
        subscription.subscribe(request.subscribe)
        return request.error if nacked else None

    def due(self, snapshot: Snapshot, revision: int) -> list[DeltaResponse]:
        """The responses to send now."""
        return [
            DeltaResponse(subscription.type_url, update.nonce, update.resources, update.removed, str(revision))
            for subscription, update in self.updates(snapshot, revision)
        ]
