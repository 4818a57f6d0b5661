"""What clients may cost the server. Whatever they do, its memory is bounded by these and by what is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import LimitError
from .conversation import Conversation


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds for all clients together, for one node and for one stream."""

    streams: int = 256  # on the local socket at a time
    nodes: int = 64  # ids on the local socket of which something is remembered
    streams_per_node: int = 8  # of one remote node at a time; an Envoy that is replaced by another has two
    types: int = 32  # that one stream asks for
    names: int = 100_000  # of one type that one stream asks for
    greeting: float = 10.0  # seconds until a stream must have said who it is

    def require(self, stream: Conversation[Any]) -> None:
        """Raises LimitError when a stream asks for more than it may."""
        if len(stream.subscriptions) > self.types:
            raise LimitError(f"a stream may ask for {self.types} types of resources, and this one asks for more")
        for subscription in stream.subscriptions.values():
            if subscription.size > self.names:
                raise LimitError(f"a stream may ask for {self.names} resources of a type, and this one asks for more")
