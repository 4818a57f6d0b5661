"""Whether a step towards the next snapshot may be taken now."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Protocol

from ..snapshot import Resource


class Passage(IntEnum):
    """FREE: now. WAIT: an answer of the client is awaited first. CLOSED: not before another snapshot is published."""

    FREE = 0
    WAIT = 1
    CLOSED = 2

    @staticmethod
    def worst(passages: Iterable[Passage]) -> Passage:
        """The one that decides; FREE for none."""
        return max(passages, default=Passage.FREE)


class Gatekeeper(Protocol):
    """Judges the steps of one client."""

    def may_send(self, resource: Resource) -> Passage:
        """Whether the client has all that the resource names."""

    def may_remove(self, type_url: str, name: str) -> Passage:
        """Whether nothing that the client has names it any more."""


class _Open:
    def may_send(self, resource: Resource) -> Passage:
        return Passage.FREE

    def may_remove(self, type_url: str, name: str) -> Passage:
        return Passage.FREE


OPEN: Gatekeeper = _Open()
