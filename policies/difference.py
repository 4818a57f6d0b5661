"""What differs between two states of a big mapping, at a cost that is felt only where there are very many entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress
from operator import is_not
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def other_values(now: Mapping[K, V], before: Mapping[K, V]) -> list[V]:
    """The values of `now` that are not the same objects in `before` under their keys, in the order of `now`."""
    return [*compress(now.values(), map(is_not, map(before.get, now), now.values()))]


def other_keys(now: Mapping[K, V], before: Mapping[K, V]) -> Iterator[K]:
    """The keys that mean another object in `now` than in `before`, and those that mean none any more."""
    yield from compress(now, map(is_not, map(before.get, now), now.values()))
    yield from before.keys() - now.keys()
