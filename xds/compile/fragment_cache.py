"""A memory for fragments that are costly to make and needed again in the next compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class FragmentCache(Generic[Key, Value]):
    """Remembers values by keys that may hold `id()`s, which are cheap to compare whatever the object's size.

    The `owner` is kept alive as long as its key, so that an id cannot come to mean another object.
    """

    def __init__(self) -> None:
        self._held: dict[Key, tuple[object, Value]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Key, owner: object, make: Callable[[], Value]) -> Value:
        """The remembered value of `key`, or `make()`."""
        found = self._held.get(key)
        if found is None:
            found = self._held[key] = (owner, make())
        return found[1]

    def keep(self, wanted: Callable[[Key], bool]) -> None:
        """Let everything go that is no longer wanted."""
        for key in [key for key in self._held if not wanted(key)]:
            del self._held[key]
