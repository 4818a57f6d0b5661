"""The state-of-the-world face of the protocol: each request lists all names that the client wants. No I/O.

https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#basic-protocol-overview
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from ..snapshot import Resource, Snapshot
from .conversation import Conversation
from .discovery import WholeRequest, WholeResponse
from .flight import Update
from .node_memory import NodeMemory, WholeState
from .subscription import WILDCARD, Subscription
from .variant import WHOLE_STATE, state_of_the_world

_NOTHING: Mapping[str, Resource] = {}


class SotwStream(Conversation[WholeRequest]):
    """One response of a type is on its way at a time. A request with the nonce of an earlier one is stale and is
    not answered (#resource-updates): the client sends all its names again when it answers the latest."""

    @staticmethod
    def decode(message: bytes) -> WholeRequest:
        """A request off the wire. Raises WireError."""
        return WholeRequest.decode(message)

    def __init__(self, memory: NodeMemory) -> None:
        super().__init__(memory)
        self._wanted: dict[str, frozenset[str]] = {}  # names of the last request, by type URL
        self._explicit: set[str] = set()  # types of which a name was ever given
        self._nonces: dict[str, str] = {}  # of the last response, by type URL
        # By type URL, until it is answered: what it had, and all that the client has once it takes it.
        self._told: dict[str, tuple[Mapping[str, Resource], WholeState]] = {}

    def receive(self, request: WholeRequest) -> str | None:
        """Take a request in; returns the text of a NACK, else None."""
        type_url = request.type_url
        subscription = self.subscriptions.get(type_url)
        if subscription is None:
            memory = self.memory.of_type(type_url)
            subscription = self.add(Subscription(type_url, memory, state_of_the_world(type_url)))
            kept = self._kept(request)
            whole = self._want(request) == {WILDCARD} and subscription.variant is WHOLE_STATE
            subscription.begin(request.names, {each.name: each.version for each in kept} if whole else {})
            subscription.may_hold(kept)
            return None
        if request.nonce != self._nonces.get(type_url, ""):
            self._let_go(subscription, request)
            return None
        nacked = self.answer(subscription, request.nonce, request.error)
        before = self._wanted[type_url]
        wanted = self._want(request)
        subscription.subscribe(sorted(wanted - before))
        subscription.unsubscribe(sorted(before - wanted))
        told, offered = self._told.pop(type_url, (_NOTHING, None))
        if offered is not None and not nacked:
            self.memory.of_type(type_url).confirmed = offered
            subscription.may_hold(told[name] for name in sorted((wanted - before) & told.keys()))
        return request.error if nacked else None

    def _let_go(self, subscription: Subscription, request: WholeRequest) -> None:
        """What a stale request does not name any more the client has dropped, and must be sent again when it is named
        again later."""
        before = self._wanted[request.type_url]
        kept = before & self._want(request)
        self._wanted[request.type_url] = kept
        subscription.unsubscribe(sorted(before - kept))

    def _kept(self, request: WholeRequest) -> tuple[Resource, ...]:
        """What a client that comes back still holds, or what it held of types that it names one by one. It tells one
        version for all of it, which is enough to know everything when it is the version of what its node confirmed
        last, or of what was sent to it last (#ack-nack-and-resource-type-instance-version)."""
        memory = self.memory.of_type(request.type_url)
        for state in (memory.confirmed, memory.offered):
            version, resources = state
            if request.version and request.version == version:
                memory.confirmed = state
                for resource in resources:
                    memory.accept(resource)
                return resources
        return ()

    def _want(self, request: WholeRequest) -> frozenset[str]:
        """The names of a request. None at all are the wildcard as long as there never were any
        (#how-the-client-specifies-what-resources-to-return)."""
        if request.names:
            self._explicit.add(request.type_url)
        wanted = frozenset(request.names if request.type_url in self._explicit else (WILDCARD,))
        self._wanted[request.type_url] = wanted
        return wanted

    def due(self, snapshot: Snapshot, revision: int) -> list[WholeResponse]:
        """The responses to send now."""
        return [self._response(*each) for each in self.updates(snapshot, revision)]

    def _response(self, subscription: Subscription, update: Update) -> WholeResponse:
        self._nonces[subscription.type_url] = update.nonce
        changed = {resource.name: resource for resource in update.resources}
        whole = {**subscription.held, **changed}
        for name in update.removed:
            whole.pop(name, None)
        told = whole if subscription.variant is WHOLE_STATE else changed
        offered = (_version(whole.values()), tuple(whole.values()))
        self._told[subscription.type_url] = (told, offered)
        self.memory.of_type(subscription.type_url).offered = offered
        resources = tuple(told[name] for name in sorted(told))
        return WholeResponse(subscription.type_url, update.nonce, offered[0], resources)


def _version(held: Iterable[Resource]) -> str:
    """The version of a type is the hash of what the client holds of it: equal on every server."""
    lines = sorted(f"{resource.name}\0{resource.version}\n" for resource in held)
    return sha256("".join(lines).encode()).hexdigest()[:16]
