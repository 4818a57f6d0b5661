"""Weighted choice in two steps, whatever the number of choices: the alias method (Walker 1977, Vose 1991)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

WHOLE = 1 << 32  # a share of this: the kernel compares it with a random 32 bit number
MOST = WHOLE - 1


class Slot(NamedTuple, Generic[T]):
    """All slots are equally likely; within one, `own` is chosen with `share` of 2^32, else `other`."""

    share: int
    own: T
    other: T


def alias_table(weights: Mapping[T, int]) -> Sequence[Slot[T]]:
    """As many slots as there are choices with a weight above 0. A choice gets its weight's part of all, to 2^-32."""
    chosen = {choice: weight for choice, weight in weights.items() if weight > 0}
    total, count = sum(chosen.values()), len(chosen)
    # In units of 1/(total * count): every slot holds `total` of them, every choice brings weight * count.
    left = {choice: weight * count for choice, weight in chosen.items()}
    small = [choice for choice in left if left[choice] < total]
    large = [choice for choice in left if left[choice] >= total]
    table: list[Slot[T]] = []
    while small and large:
        own, other = small.pop(), large[-1]
        table.append(Slot(min(left[own] * WHOLE // total, MOST), own, other))
        left[other] -= total - left[own]
        if left[other] < total:
            small.append(large.pop())
    table += [Slot(MOST, choice, choice) for choice in (*large, *small)]
    return table
