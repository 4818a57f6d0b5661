"""One stream's talk with a client about all its resource types, whatever the protocol's variant. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from ..snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTE, SECRET, Resource, Snapshot
from .discovery import DeltaRequest, DeltaResponse, WholeRequest, WholeResponse
from .flight import Update
from .node_memory import NodeMemory
from .subscription import Subscription
from .transition import EVALUATION, Gate, names_in_use, target

# What others refer to goes first (#eventual-consistency-considerations); other types follow as they were asked for.
_ORDER = {CLUSTER: 0, ENDPOINTS: 1, SECRET: 2, LISTENER: 3, ROUTE: 4}


_JUDGED = {type_url: number for number, type_url in enumerate(EVALUATION)}

Request = TypeVar("Request", DeltaRequest, WholeRequest)


class Conversation(ABC, Generic[Request]):
    """Each type is walled off from the others and has nonces of its own."""

    def __init__(self, memory: NodeMemory) -> None:
        self.memory = memory
        self._subscriptions: dict[str, Subscription] = {}
        self.acquainted = False  # the client has answered something
        self._goal = Snapshot()
        self._goal_of: tuple[Snapshot | None, int, int] = (None, 0, 0)  # the snapshot, refusals and acceptances then

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

    def answer(self, subscription: Subscription, nonce: str, error: str | None) -> bool:
        """An ACK, or with an error a NACK; true for a NACK that counts. A stale or empty nonce says nothing."""
        counts = subscription.reject(nonce, error) if error is not None else subscription.acknowledge(nonce)
        self.acquainted = self.acquainted or counts
        return counts and error is not None

    def updates(self, snapshot: Snapshot, revision: int) -> list[tuple[Subscription, Update]]:
        """What to send now, in the order that make-before-break wants."""
        goal = self._target(snapshot)
        found = self._round(goal, revision)
        before: list[int] = []
        while not found and before != (now := [each.held_back for each in self._subscriptions.values()]):
            before = now  # what one type could not do may have been all that another waited for
            found = self._round(goal, revision) if any(now) else []
        return sorted(found, key=lambda each: _ORDER.get(each[0].type_url, len(_ORDER)))

    def _round(self, goal: Snapshot, revision: int) -> list[tuple[Subscription, Update]]:
        gate = Gate(self._subscriptions, self.memory, goal, acquainted=self.acquainted)
        found = []
        for type_url in sorted(self._subscriptions, key=_judged):
            subscription = self._subscriptions[type_url]
            for update in subscription.due(goal.of_type(type_url), revision, gate):
                found.append((subscription, update))
                if type_url == CLUSTER:
                    self._send_endpoints_again(update)
        if gate.awaits_a_word and not any(each.is_waiting for each in self._subscriptions.values()):
            first = next(iter(self._subscriptions.values()))
            found.append((first, first.greet()))
        return found

    def _target(self, snapshot: Snapshot) -> Snapshot:
        memory = self.memory
        made_of, refusals, acceptances = self._goal_of
        same = made_of is snapshot and refusals == memory.refusals
        # Where there are last good ones in it, of one there may be another now: what was on its way when its next
        # version was refused.
        if not same or (self._goal is not snapshot and acceptances != memory.acceptances):
            self._goal_of = (snapshot, memory.refusals, memory.acceptances)
            self._goal = target(snapshot, memory)
        return self._goal

    def _send_endpoints_again(self, update: Update) -> None:
        """A changed cluster is of no use before its endpoints have come after it, also when they are the same
        (#resource-warming)."""
        endpoints = self._subscriptions.get(ENDPOINTS)
        if endpoints is not None:
            for cluster in update.resources:
                endpoints.owe(name for kind, name in cluster.references if kind == ENDPOINTS)

    def has_answered(self, snapshot: Snapshot, revision: int) -> bool:
        """True when the client asked for everything in the snapshot and has ACKed or NACKed it, or what replaced it.

        What something in the snapshot names is asked for by those clients only that have taken that something.
        """
        if any(subscription.settled_through < revision for subscription in self._subscriptions.values()):
            return False
        return not any(self._is_yet_to_ask(snapshot, *each) for each in snapshot.types.items() if each[1])

    def _is_yet_to_ask(self, snapshot: Snapshot, type_url: str, named: Mapping[str, Resource]) -> bool:
        subscription = self._subscriptions.get(type_url)
        if subscription is not None and subscription.wants_all(named):
            return False
        unasked = {name for name in named if subscription is None or not subscription.wants(name)}
        in_use = names_in_use(self._subscriptions, type_url)
        return any((type_url, name) not in snapshot.references or name in in_use for name in unasked)

    def rejections(self, snapshot: Snapshot) -> dict[tuple[str, str], str]:
        """(type URL, name) -> the client's text, for the snapshot's resources that it refused."""
        return {
            (type_url, name): error
            for type_url, subscription in self._subscriptions.items()
            if subscription.has_refusals
            for name, resource in snapshot.of_type(type_url).items()
            if (error := subscription.rejection(resource)) is not None
        }


def _judged(type_url: str) -> int:
    return _JUDGED.get(type_url, len(_JUDGED))
