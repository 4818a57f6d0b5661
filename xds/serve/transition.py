"""Make before break, gated on ACK: how one client gets from the snapshot it has (S1) to the next (S2). No I/O.

Every step is S1 u S2 for the resource at hand: a resource is sent when the client has ACKed everything it names, and
taken away when nothing the client has still names it. A refusal stops what depends on it, and only that.
https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol#eventual-consistency-considerations
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ..snapshot import CLUSTER, ENDPOINTS, FILTER_CONFIG, LISTENER, ROUTE, SECRET, Resource, Snapshot
from .node_memory import NodeMemory
from .passage import Passage
from .reference import Reference
from .subscription import Subscription
from .variant import Removals

# What is named before what names it: the order in which the types of a client are judged.
EVALUATION = (SECRET, CLUSTER, ENDPOINTS, ROUTE, LISTENER)
_REFERRERS: Mapping[str, tuple[str, ...]] = {
    CLUSTER: (ROUTE, LISTENER),
    ENDPOINTS: (CLUSTER,),
    FILTER_CONFIG: (LISTENER,),
    ROUTE: (LISTENER,),
    SECRET: (CLUSTER, LISTENER),
}

_ANYWHERE = b""


def target(snapshot: Snapshot, memory: NodeMemory) -> Snapshot:
    """What a node is led to: the snapshot, with the last good resources in place of those that the node refused and of
    those that name a refused one, and with whatever these last good ones name. The snapshot itself where nothing was
    refused."""
    stopped = _stopped(snapshot, memory)
    if not stopped:
        return snapshot
    _forget_useless(stopped, snapshot, memory)
    types = {type_url: dict(named) for type_url, named in snapshot.types.items()}
    for type_url, name in stopped:
        if (good := memory.of_type(type_url).accepted(name)) is not None:
            types[type_url][name] = good
    # Also what they name must stay, as long as they do.
    missing = [reference for named in types.values() for each in named.values() for reference in each.references]
    while missing:
        type_url, name = missing.pop()
        if name not in types.get(type_url, ()) and (good := memory.of_type(type_url).accepted(name)) is not None:
            types.setdefault(type_url, {})[name] = good
            missing += good.references
    return Snapshot(MappingProxyType({type_url: MappingProxyType(named) for type_url, named in types.items()}))


def _forget_useless(stopped: Iterable[Reference], snapshot: Snapshot, memory: NodeMemory) -> None:
    """The last good version of something that has been away for a while may name what has gone for good meanwhile."""

    def is_of_use(reference: Reference, seen: frozenset[Reference]) -> bool:
        type_url, name = reference
        kept = memory.of_type(type_url)
        good = kept.accepted(name)
        if reference in seen or (name in snapshot.of_type(type_url) and reference not in stopped):
            return True
        if good is None:
            return type_url == CLUSTER and not kept.is_gone(name)  # it never came from here: a static cluster
        return all(is_of_use(each, seen | {reference}) for each in _needs(good))

    for type_url, name in stopped:
        if not is_of_use((type_url, name), frozenset()):
            memory.of_type(type_url).remove(name)


def _stopped(snapshot: Snapshot, memory: NodeMemory) -> set[Reference]:
    """What the node refused in the snapshot, and everything there that names it."""
    refused = {
        (type_url, name)
        for type_url, kept in memory.types.items()
        for name in kept.refused_names()
        if (published := snapshot.of_type(type_url).get(name)) is not None and kept.rejection(published) is not None
    }
    if not refused:
        return refused
    named_by: dict[Reference, list[Reference]] = {}
    for type_url, named in snapshot.types.items():
        for name, resource in named.items():
            for reference in _needs(resource):
                named_by.setdefault(reference, []).append((type_url, name))
    stopped, look_at = set(refused), list(refused)
    while look_at:
        for found in named_by.get(look_at.pop(), ()):
            if found not in stopped:
                stopped.add(found)
                look_at.append(found)
    return stopped


def _needs(resource: Resource) -> Iterable[Reference]:
    """What must be there before the resource is. Endpoints are not: a client asks for them when it has the cluster."""
    return (reference for reference in resource.references if reference[0] != ENDPOINTS)


def names_in_use(subscriptions: Mapping[str, Subscription], type_url: str) -> frozenset[str]:
    """The names of this type in what the client holds."""
    return frozenset(
        name
        for referrer in _REFERRERS.get(type_url, ())
        if referrer in subscriptions
        for resource in subscriptions[referrer].held.values()
        for kind, name in resource.references
        if kind == type_url
    )


class Gate:
    """Judges one client's next steps towards `goal` (see `target`) by what its subscriptions say it has.

    For one round of `due` over the types in the order of EVALUATION; made anew for the next.
    """

    def __init__(
        self, subscriptions: Mapping[str, Subscription], memory: NodeMemory, goal: Snapshot, *, acquainted: bool
    ) -> None:
        """`acquainted`: the client has answered something on this stream. Before that it may not have said yet all
        that it came back with, and what that names."""
        self._subscriptions = subscriptions
        self._memory = memory
        self._acquainted = acquainted
        self.awaits_a_word = False  # a removal waits for nothing but any answer of the client
        self._goal = goal
        self._in_use: dict[str, dict[str, Passage]] = {}
        self._adding: dict[str, bool] = {}
        self._early: frozenset[str] | None = None
        self._leaving: Mapping[bytes, set[str]] | None = None

    def may_send(self, resource: Resource) -> Passage:
        """Whether the client has all that the resource names."""
        if resource.type_url == ENDPOINTS:
            return Passage.WAIT if resource.name in self._endpoints_too_early() else Passage.FREE
        if resource.type_url == LISTENER and self._address_is_taken(resource):
            return Passage.WAIT
        return Passage.worst(self._ready(*reference) for reference in _needs(resource))

    def _address_is_taken(self, listener: Resource) -> bool:
        """True while the client has another listener at an address of this one that is about to leave it: Envoy refuses
        two at one address."""
        if self._leaving is None:
            self._leaving = self._left_addresses()
        taken = self._leaving
        return _ANYWHERE in taken or any(
            taken.get(each, {listener.name}) != {listener.name} for each in listener.addresses
        )

    def _left_addresses(self) -> Mapping[bytes, set[str]]:
        """Addresses of listeners that the client has and that are to go or to be elsewhere, with their names."""
        found: dict[bytes, set[str]] = {}
        subscription = self._subscriptions.get(LISTENER)
        if subscription is None:
            return found
        goal = self._goal.of_type(LISTENER)
        for held in subscription.present():
            staying = goal.get(held.name)
            for address in held.addresses - (staying.addresses if staying is not None else frozenset()):
                found.setdefault(address, set()).add(held.name)
        if any(name not in goal for name in subscription.unseen):  # of one that is to go it is not known where it is
            found[_ANYWHERE] = set()
        return found

    def may_remove(self, type_url: str, name: str) -> Passage:
        """Whether nothing that the client has names it any more, and what replaces it is in its place."""
        if (type_url, name) in self._goal.references:
            return Passage.CLOSED  # without it the client would be left with a hole
        if type_url in _REFERRERS and not self._acquainted:
            self.awaits_a_word = True
            return Passage.WAIT
        for referrer in _REFERRERS.get(type_url, ()):
            subscription = self._subscriptions.get(referrer)
            if subscription is not None and subscription.has_unseen:
                # It came back with resources that this server has never seen.
                return Passage.WAIT if subscription.is_moving else Passage.CLOSED
        if (use := self._uses(type_url).get(name)) is not None:
            return use
        return Passage.WAIT if self._is_adding(type_url) else Passage.FREE

    def _is_adding(self, type_url: str) -> bool:
        """True while something that could replace what names this type is still to come: until then the client may go
        on with what it had, although it has ACKed the listener after it (#resource-warming)."""
        if type_url not in self._adding:
            kinds = (*_REFERRERS.get(type_url, ()), *((type_url,) if type_url in (ROUTE, SECRET) else ()))
            found = (self._subscriptions[kind] for kind in kinds if kind in self._subscriptions)
            self._adding[type_url] = any(subscription.is_adding for subscription in found) or any(
                self._is_about_to_ask(kind) for kind in kinds
            )
        return self._adding[type_url]

    def _is_about_to_ask(self, type_url: str) -> bool:
        subscription = self._subscriptions.get(type_url)
        return any(
            name in self._goal.of_type(type_url) and (subscription is None or not subscription.wants(name))
            for name in names_in_use(self._subscriptions, type_url)
        )

    def _ready(self, type_url: str, name: str) -> Passage:
        subscription = self._subscriptions.get(type_url)
        published = self._goal.of_type(type_url).get(name)
        if published is None:
            return Passage.FREE  # from elsewhere: a static cluster
        if subscription is None or not subscription.wants(name):
            # The client asks for it when it finds the name, and must not be kept waiting then.
            return self.may_send(published) if self._is_good(published) else Passage.CLOSED
        passage = subscription.passage(published)
        if passage is Passage.FREE and type_url == CLUSTER:
            return Passage.worst(
                self._endpoints_ready(each) for kind, each in published.references if kind == ENDPOINTS
            )
        return passage

    def _is_good(self, published: Resource) -> bool:
        return self._memory.of_type(published.type_url).offer(published) is not None

    def _endpoints_ready(self, name: str) -> Passage:
        """A cluster without its endpoints is of no use yet (#resource-warming)."""
        published = self._goal.of_type(ENDPOINTS).get(name)
        if published is None:
            return Passage.FREE
        subscription = self._subscriptions.get(ENDPOINTS)
        if subscription is None or not subscription.wants(name):
            # A client that takes all clusters is about to ask.
            return Passage.WAIT if self._subscriptions[CLUSTER].wants_all(("",)) else Passage.FREE
        return subscription.passage(published)

    def _endpoints_too_early(self) -> frozenset[str]:
        """Endpoints follow their cluster on the stream; they do not wait for its ACK."""
        if self._early is None:
            clusters = self._subscriptions.get(CLUSTER)
            unsent = clusters.unsent() if clusters is not None else ()
            self._early = frozenset(
                name for cluster in unsent for kind, name in cluster.references if kind == ENDPOINTS
            )
        return self._early

    def _uses(self, type_url: str) -> Mapping[str, Passage]:
        """The names of this type in anything that the client has or is being sent. Where that cannot be taken from it
        (Removals.UNTOLD) nothing is awaited, and what it names goes once the client asks for it no more. Nor where what
        replaces it, or what that names, was refused: the client keeps what it has until another snapshot."""
        if type_url not in self._in_use:
            uses = self._in_use[type_url] = {}
            for referrer in _REFERRERS.get(type_url, ()):
                subscription = self._subscriptions.get(referrer)
                if subscription is None:
                    continue
                untold = subscription.variant.removals is Removals.UNTOLD
                for resource in subscription.present():
                    wanted = self._goal.of_type(referrer).get(resource.name)
                    if wanted is None:
                        lingers = untold or subscription.is_closed(resource.name)
                    else:
                        lingers = subscription.passage(wanted) is Passage.CLOSED
                    passage = Passage.CLOSED if lingers else Passage.WAIT
                    for kind, name in resource.references:
                        if kind == type_url:
                            uses[name] = min(uses.get(name, passage), passage)
        return self._in_use[type_url]
