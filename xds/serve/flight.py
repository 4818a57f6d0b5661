"""The responses that are on their way to a client for one type, until it answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from ..snapshot import Resource


@dataclass(frozen=True, slots=True)
class Update:
    """One response: `nonce` pairs it with the client's answer."""

    nonce: str
    resources: tuple[Resource, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """What one response tells, and of which revision."""

    revision: int
    resources: Mapping[str, Resource]
    removed: tuple[str, ...]

    @property
    def names(self) -> Iterable[str]:
        """All that it is about."""
        return (*self.resources, *self.removed)


class Flight:
    """No name is in two responses at a time. Empty, and then false, when the client has answered everything."""

    def __init__(self) -> None:
        self._sent: dict[str, Sent] = {}
        self._names: set[str] = set()
        self._nonces = 0

    def __bool__(self) -> bool:
        return bool(self._sent)

    @property
    def names(self) -> Set[str]:
        """What the responses are about."""
        return self._names

    def resources(self) -> Iterator[Resource]:
        """What they bring."""
        for sent in self._sent.values():
            yield from sent.resources.values()

    def begin(self, sent: Sent) -> Update:
        """It is on its way from now on, under a nonce of its own."""
        self._nonces += 1
        nonce = str(self._nonces)
        self._sent[nonce] = sent
        self._names.update(sent.names)
        return Update(nonce, tuple(sent.resources.values()), sent.removed)

    def end(self, nonce: str) -> Sent | None:
        """The client has answered; None for a stale or unknown nonce."""
        sent = self._sent.pop(nonce, None)
        if sent is not None:
            self._names.difference_update(sent.names)
        return sent
