"""One client's subscription to one resource type: what it wants, what it holds and what it must be told next.

A state machine without I/O. The protocol's variants are faces of it: delta.py and sotw.py turn requests into these
calls, and whatever a face sends it gets from `due`. Rules and their source:
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from ...policies.difference import other_keys
from ..snapshot import Resource
from .flight import Flight, Sent, Update
from .habits import ABSENCE_UNTOLD, ALONE, HELD_AGAIN
from .node_memory import TypeMemory
from .passage import OPEN, Gatekeeper, Passage
from .variant import INCREMENTAL, Removals, Variant

WILDCARD = "*"

# In place of a version: the client may hold what it was sent last, or nothing. No resource has this version.
_UNSURE = ""


class Subscription:
    """Call `begin` once, then `subscribe`, `unsubscribe`, `acknowledge` and `reject` as requests say, and send what
    `due` returns after each of them and after each new snapshot.

    At most one version of a resource is on its way at a time, so a slow client costs no more than one response per
    resource, and always gets the latest version next.
    """

    def __init__(self, type_url: str, memory: TypeMemory, variant: Variant = INCREMENTAL) -> None:
        self.type_url = type_url
        self.variant = variant
        self._memory = memory
        self._named: set[str] = set()
        self._wildcard = False
        self._known: dict[str, str | None] = {}  # what the client holds: a version, or None = it knows of the absence
        self._held: dict[str, Resource] = {}  # of what it holds, whatever has been seen by this server
        self._owed: set[str] = set()  # must be told even when the client seems to know
        self._noted: set[str] = set()  # refused on this stream by a client that held nothing of that name
        self._greeting = False  # a wildcard is answered even when there is nothing
        self._took_any = False
        self._flight = Flight()
        self._behind: dict[str, int] = {}  # name -> first revision that the client has not answered for
        self._published: Mapping[str, Resource] = {}
        self._revision = 0
        self._look_at: set[str] = set()  # names to compare in the next `due`
        self._closed: set[str] = set()  # names whose step is not to be taken before another snapshot

    # What the client says

    def begin(self, subscribe: Iterable[str], held: Mapping[str, str]) -> None:
        """The first request of a stream for this type.

        No names at all are the wildcard, as is the name `*` (#how-the-client-specifies-what-resources-to-return).
        `held` is initial_resource_versions: what the client kept from an earlier stream. It is not a subscription.
        """
        names = set(subscribe)
        self._wildcard = not names or WILDCARD in names
        self._named = names - {WILDCARD}
        self._known = {name: version for name, version in held.items() if self.wants(name)}
        for name, version in self._known.items():
            known = self._memory.accepted(name)
            if known is not None and known.version == version:
                self._held[name] = known
        knows_all = self.variant.removals is Removals.IMPLIED and bool(held)
        self._greeting = self._wildcard and not knows_all
        self._took_any = knows_all
        self._look_at |= self._named | set(self._known)
        self._look_at_all_if_wildcard()
        self._owe_after_refusals()

    def subscribe(self, names: Iterable[str]) -> None:
        """A name subscribed to again is sent again: the client may have dropped it in between
        (DeltaDiscoveryRequest.resource_names_subscribe)."""
        for name in names:
            if name == WILDCARD:
                self._wildcard = True
                self._greeting = True
                self._look_at_all_if_wildcard()
            else:
                self._named.add(name)
                self._owed.add(name)
                if self._known.get(name) is not None:
                    self._known[name] = _UNSURE
                self._look_at.add(name)

    def may_hold(self, resources: Iterable[Resource]) -> None:
        """The client accepted a response with these and named them anew, and whether it wanted them when it took the
        response in is not known. They are sent again, and until then count as held for whatever they name and for
        their removal."""
        for resource in resources:
            if self.wants(resource.name) and self._known.get(resource.name) is None:
                self._known[resource.name] = _UNSURE
                self._held[resource.name] = resource
                self._look_at.add(resource.name)

    def unsubscribe(self, names: Iterable[str]) -> None:
        """Stop. A single name left while the wildcard stays is told once more, whether it is there or not: the client
        cannot know whether the wildcard includes it (#unsubscribing-from-resources)."""
        for name in names:
            if name == WILDCARD:
                self._wildcard = False
                for held in [held for held in self._known if held not in self._named]:
                    self._forget(held)
            elif name in self._named:
                self._named.discard(name)
                if not self._wildcard:
                    self._forget(name)
                elif self.variant.removals is Removals.NAMED:
                    self._owed.add(name)
                    self._look_at.add(name)

    def acknowledge(self, nonce: str) -> bool:
        """ACK. False for a stale nonce, which says nothing about what the client holds."""
        sent = self._take(nonce)
        if sent is None:
            return False
        self._took_any = True
        for name, resource in sent.resources.items():
            self._memory.accept(resource)
            if self.wants(name):
                self._known[name] = _UNSURE if name in self._owed else resource.version
                self._held[name] = resource
        for name in sent.removed:
            self._know_absent(name)
        return True

    def reject(self, nonce: str, error: str) -> bool:
        """NACK: the client keeps what it held, and the same bytes are not sent again. False for a stale nonce."""
        sent = self._take(nonce)
        if sent is None:
            return False
        self._memory.reject(sent.resources.values(), error)
        if self.variant.removals is Removals.IMPLIED and not self._took_any:
            self._greeting = True  # what it kept from an earlier stream must go even when nothing else comes
        for name, resource in sent.resources.items():
            if self.wants(name) and self._known.setdefault(name, None) is None:  # it has none, and knows
                self._noted.add(name)
            refused = self._memory.rejection(resource) is not None
            if refused and self._known.get(name) == _UNSURE and self._held.get(name) == resource:
                del self._held[name]  # hardly: it is not to be told again beside others
        self._owe_after_refusals()
        for name in sent.removed:
            self._know_absent(name)
        return True

    # What the client must be told

    def due(self, published: Mapping[str, Resource], revision: int, gate: Gatekeeper = OPEN) -> list[Update]:
        """The responses to send now, and note them as sent. `published` is the snapshot's part of this type, `revision`
        its number, which only grows. What `gate` holds back is asked about again in the next call."""
        if published is not self._published:
            before, self._published = self._published, published
            others = other_keys(published, before)
            self._look_at.update(
                others if self._wildcard else filter({*self._named, *self._known}.__contains__, others)
            )
        if self.variant.in_turn and self._flight:
            return []
        self._revision = revision
        changed: list[Resource] = []
        gone: list[str] = []
        absent: list[str] = []  # and never was there for the client
        for name in sorted(self._look_at - self._flight.names):
            self._look_at.discard(name)
            self._closed.discard(name)
            if not self.wants(name) and name not in self._owed:
                self._behind.pop(name, None)
                continue
            resource = self._memory.offer(published.get(name))
            if not self._is_due(name, resource, published):
                if resource is not None or name not in published:  # else there may be something good later
                    self._owed.discard(name)
                self._behind.pop(name, None)
                if resource is not None and name not in self._held:  # it came back with it from an earlier stream
                    self._memory.accept(resource)
                    self._held[name] = resource
            elif resource is None and self._known.get(name) is None:
                absent.append(name)
            elif resource is None:
                if self._passes(name, gate.may_remove(self.type_url, name)):
                    gone.append(name)
            elif self._passes(name, gate.may_send(resource)):
                changed.append(resource)
        return self._updates(changed, gone, absent)

    def _passes(self, name: str, passage: Passage) -> bool:
        if passage is Passage.FREE:
            return True
        self._look_at.add(name)
        if passage is Passage.WAIT:
            self._behind.setdefault(name, self._revision)
        else:
            self._closed.add(name)
            self._behind.pop(name, None)
        return False

    def _is_due(self, name: str, resource: Resource | None, published: Mapping[str, Resource]) -> bool:
        if resource is not None:
            return name in self._owed or self._known.get(name) != resource.version
        if self.variant.removals is Removals.UNTOLD:
            return False
        refused = name in published  # and nothing good in its place: what the client holds is better than nothing
        if self._known.get(name) is not None and not refused:
            return True
        if self.type_url in ABSENCE_UNTOLD:
            return name in self._noted and self._known.get(name) is None
        # A subscription outlives its resource, and absence is told once
        # (#knowing-when-a-requested-resource-does-not-exist).
        return (name in self._owed and not refused) or (name in self._named and name not in self._known)

    def _updates(self, changed: list[Resource], gone: list[str], absent: list[str]) -> list[Update]:
        alone: list[Resource] = []
        together: list[Resource] = []
        for resource in changed:
            by_itself = self.type_url in ALONE or self._memory.is_suspect(resource)
            (alone if by_itself else together).append(resource)
        parts: list[tuple[tuple[Resource, ...], tuple[str, ...]]] = [((resource,), ()) for resource in alone]
        # Removals come last and by themselves: a NACK leaves no doubt whether they were carried out. What never was
        # there is implied by any whole response.
        implied = tuple(absent) if together and self.variant.removals is Removals.IMPLIED else ()
        removed = (*gone, *(() if implied else absent))
        if together:
            parts.append((tuple(together), implied))
        if removed or (self._greeting and not self._flight and not alone and not together):
            parts.append(((), removed))
        self._greeting = False
        now = parts[:1] if self.variant.in_turn else parts
        for resources, names in parts[len(now) :]:
            for name in (*(resource.name for resource in resources), *names):
                self._behind.setdefault(name, self._revision)
                self._look_at.add(name)
        return [self._send(*part) for part in now]

    def greet(self) -> Update:
        """A response that changes nothing, for the sake of its answer."""
        return self._send((), ())

    def _send(self, resources: tuple[Resource, ...], removed: tuple[str, ...]) -> Update:
        sent = Sent(self._revision, {resource.name: resource for resource in resources}, removed)
        for name in sent.names:
            self._behind.setdefault(name, self._revision)
        self._owed.difference_update(sent.names)
        self._noted.difference_update(sent.names)
        return self._flight.begin(sent)

    # How far the client is

    @property
    def settled_through(self) -> int:
        """The latest revision that the client has answered for, ACK or NACK, in everything it subscribed to."""
        if not self._behind:
            return self._revision
        return min(self._behind.values()) - 1

    @property
    def is_waiting(self) -> bool:
        """True when a response has not been answered yet."""
        return bool(self._flight)

    @property
    def is_moving(self) -> bool:
        """True when an answer of the client or a next step is awaited."""
        return bool(self._flight) or bool(self._look_at - self._closed)

    @property
    def has_refusals(self) -> bool:
        """True when the client's node ever refused something of this type."""
        return bool(self._memory.refusals)

    @property
    def is_plain(self) -> bool:
        """True when whether a response is awaited says all about its state: nothing was refused, nothing is held back
        or left untold."""
        return not self._memory.refusals and not self._look_at and self.variant.removals is not Removals.UNTOLD

    @property
    def held_back(self) -> int:
        """How many steps wait for an answer of the client, as it looked when they were judged last."""
        return len(self._look_at) - len(self._closed)

    @property
    def is_adding(self) -> bool:
        """True when the client is still to get or to confirm a resource."""
        return any(True for _ in self._flight.resources()) or any(True for _ in self.unsent())

    def wants(self, name: str) -> bool:
        """True when the client asked for it."""
        return self._wildcard or name in self._named

    def owe(self, names: Iterable[str]) -> None:
        """The client needs what it holds of these once more."""
        for name in names:
            if self.wants(name) and self._known.get(name) is not None:
                self._owed.add(name)
                self._look_at.add(name)

    def passage(self, published: Resource) -> Passage:
        """FREE when the client has confirmed this version; WAIT when it will get it."""
        name = published.name
        if self._memory.offer(published) is None or name in self._closed:
            return Passage.CLOSED
        held = self._known.get(name) == published.version and name not in self._flight.names
        return Passage.FREE if held else Passage.WAIT

    def is_closed(self, name: str) -> bool:
        """True when its next step is not to be taken before another snapshot."""
        return name in self._closed

    def unsent(self) -> Iterator[Resource]:
        """What the client will get, but is not yet being sent."""
        sending = {(each.name, each.version) for each in self._flight.resources()}
        for name in (self._look_at | self._flight.names) - self._closed:
            resource = self._memory.offer(self._published.get(name))
            if resource is None or not self.wants(name) or (name, resource.version) in sending:
                continue
            if self._known.get(name) != resource.version:
                yield resource

    def present(self) -> Iterator[Resource]:
        """What the client holds, and what it may hold in a moment."""
        yield from self._held.values()
        yield from self._flight.resources()

    @property
    def size(self) -> int:
        """How many names are remembered for the client."""
        return max(len(self._named), len(self._known))

    @property
    def has_unseen(self) -> bool:
        """True when it came back with something that this server cannot know the content of."""
        return any(True for _ in self.unseen)

    @property
    def unseen(self) -> Iterator[str]:
        """The names of that."""
        return (name for name, version in self._known.items() if version is not None and name not in self._held)

    def wants_all(self, names: Iterable[str]) -> bool:
        """True when the client asked for every one of these names."""
        return self._wildcard or self._named.issuperset(names)

    def wanted(self) -> frozenset[str]:
        """The names the client asked for, with those that its wildcard includes now."""
        return frozenset(self._named.union(self._published if self._wildcard else ()))

    def held_version(self, name: str) -> str | None:
        """The version that the client confirmed or claimed to hold."""
        return self._known.get(name) or None

    @property
    def held(self) -> Mapping[str, Resource]:
        """What the client holds, as far as this server has ever sent it, by name."""
        return MappingProxyType(self._held)

    def rejection(self, resource: Resource) -> str | None:
        """The client's text when it refused this version."""
        return self._memory.rejection(resource)

    def _take(self, nonce: str) -> Sent | None:
        sent = self._flight.end(nonce)
        if sent is not None:
            self._look_at.update(sent.names)
            for name in sent.names:
                self._behind[name] = sent.revision + 1  # `due` clears it when nothing newer waits
        return sent

    def _owe_after_refusals(self) -> None:
        if self.type_url in HELD_AGAIN:
            self.owe(self._memory.refused_last - self._flight.names)

    def _know_absent(self, name: str) -> None:
        if self._held.pop(name, None) is not None:
            self._memory.remove(name)
        if name in self._named:
            self._known[name] = None
        else:
            self._known.pop(name, None)

    def _forget(self, name: str) -> None:
        self._known.pop(name, None)
        self._held.pop(name, None)
        self._owed.discard(name)
        self._noted.discard(name)
        self._behind.pop(name, None)

    def _look_at_all_if_wildcard(self) -> None:
        if self._wildcard:
            self._look_at.update(self._published)
            self._look_at.update(self._known)
