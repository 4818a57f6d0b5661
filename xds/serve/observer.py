"""Who wants to know what goes over the streams, for counting and timing."""

from __future__ import annotations

from typing import Protocol


class Observer(Protocol):
    """Told of every response and every answer. `client` is a number that is a stream's own while it lasts."""

    def sent(self, client: int, type_url: str, nonce: str) -> None:
        """A response is about to be written."""

    def answered(self, client: int, type_url: str, nonce: str, refused: bool) -> None:
        """An ACK or a NACK came, perhaps for a nonce that is no longer current."""

    def left(self, client: int) -> None:
        """The stream has ended."""

    def refused(self) -> None:
        """A stream was ended for what its client is, said or wanted."""


class NobodyWatches:
    """An Observer that does nothing."""

    def sent(self, client: int, type_url: str, nonce: str) -> None:
        """Nothing."""

    def answered(self, client: int, type_url: str, nonce: str, refused: bool) -> None:
        """Nothing."""

    def left(self, client: int) -> None:
        """Nothing."""

    def refused(self) -> None:
        """Nothing."""
