"""What each connected Envoy has, resource type by resource type, and since when.

SYNCED: it confirmed what is published. STALE: it has not answered yet. NACK: it refused something and keeps the last
good version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from ..snapshot import Snapshot
from .subscription import Subscription


class SyncState(StrEnum):
    """The worst thing that can be said about a resource or a type wins: NACK, then STALE, then SYNCED."""

    SYNCED = "SYNCED"
    STALE = "STALE"
    NACK = "NACK"


@dataclass(frozen=True, slots=True)
class Moment:
    """When something began: on the monotonic clock for durations, and as Unix time for people."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource that a client asked for. `published` None: it does not exist; `held` None: the client has none."""

    name: str
    state: SyncState
    published: str | None
    held: str | None
    error: str | None = None  # Envoy's text


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type of one client."""

    type_url: str
    state: SyncState
    since: Moment
    resources: tuple[ResourceStatus, ...]

    @property
    def errors(self) -> tuple[str, ...]:
        """Envoy's texts, without repetition."""
        return tuple(dict.fromkeys(resource.error for resource in self.resources if resource.error))


@dataclass(frozen=True, slots=True)
class ClientStatus:
    """One stream. `node` is the id the client gave; it is empty before its first request."""

    node: str
    connected: Moment
    types: tuple[TypeStatus, ...]
    remote: bool = False  # over TCP, as the node of its certificate

    @property
    def state(self) -> SyncState:
        """The worst of its types."""
        return worst(entry.state for entry in self.types)


@dataclass(frozen=True, slots=True)
class XdsStatus:
    """The server: `revision` counts published snapshots, 0 before the first."""

    revision: int
    clients: tuple[ClientStatus, ...]


def worst(states: Iterable[SyncState]) -> SyncState:
    """NACK before STALE before SYNCED; SYNCED for none."""
    found = set(states)
    return next((state for state in (SyncState.NACK, SyncState.STALE) if state in found), SyncState.SYNCED)


class TypeClock:
    """Remembers since when each type of a client is in its state."""

    def __init__(self, now: Callable[[], Moment]) -> None:
        self._now = now
        self._since: dict[str, tuple[SyncState, Moment]] = {}

    def status(self, subscription: Subscription, snapshot: Snapshot) -> TypeStatus:
        """The status now; asked after every change, so that `since` is the moment of the change."""
        resources = resource_statuses(subscription, snapshot)
        state = worst(resource.state for resource in resources)
        if subscription.is_waiting and state is SyncState.SYNCED:
            state = SyncState.STALE
        return TypeStatus(subscription.type_url, state, self._enter(subscription.type_url, state), resources)

    def note(self, subscription: Subscription, snapshot: Snapshot) -> None:
        """The same for the sake of `since`, without a look at each resource where that is not needed."""
        if subscription.is_plain:
            self._enter(subscription.type_url, SyncState.STALE if subscription.is_waiting else SyncState.SYNCED)
        else:
            self.status(subscription, snapshot)

    def _enter(self, type_url: str, state: SyncState) -> Moment:
        known = self._since.get(type_url)
        if known is None or known[0] is not state:
            known = self._since[type_url] = (state, self._now())
        return known[1]


def resource_statuses(subscription: Subscription, snapshot: Snapshot) -> tuple[ResourceStatus, ...]:
    """One line per name that the client asked for, sorted by name."""
    published = snapshot.of_type(subscription.type_url)
    statuses = []
    for name in sorted(subscription.wanted().union(published if subscription.wants_all(("",)) else ())):
        resource = published.get(name)
        held = subscription.held_version(name)
        error = subscription.rejection(resource) if resource is not None else None
        version = resource.version if resource is not None else None
        state = SyncState.NACK if error is not None else SyncState.SYNCED if held == version else SyncState.STALE
        statuses.append(ResourceStatus(name, state, version, held, error))
    return tuple(statuses)
