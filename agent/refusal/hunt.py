"""Group testing: which of many suspects spoil the whole, found by trying parts of them. Pure: somebody else tries.

Each trial holds everything that was found innocent before, so what is innocent in the end is as much as can be had.
With d guilty ones among n it takes about 2 d log2 n trials.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Hunt(Generic[T]):
    """All suspects together were refused. Try `trial` and say by `accepted` or `refused` what came of it, until it is
    None; then `guilty` has each culprit with the words of its own refusal.

    `hopeless`: without any suspect the whole is refused too, so it is none of them.
    """

    def __init__(self, suspects: Iterable[T], why: str, first: Iterable[T] = ()) -> None:
        """`why` are the words of the refusal. The suspects in `first` are the likeliest, tried one by one."""
        self._everyone = frozenset(everyone := list(dict.fromkeys(suspects)))
        self._why = why
        likely = [each for each in dict.fromkeys(first) if each in self._everyone]
        rest = [each for each in everyone if each not in set(likely)]
        self._groups: list[Sequence[T]] = [[each] for each in reversed(likely)]
        self._groups += [rest] if likely and rest else _halves(rest)
        self._innocent: frozenset[T] = frozenset()
        self._sound = False  # something was accepted
        self._doubtful: tuple[Sequence[T], str] | None = None  # refused before anything was accepted
        self._trying: Sequence[T] | None = None
        self.guilty: dict[T, str] = {}
        self.hopeless = False
        self._next()

    @property
    def trial(self) -> frozenset[T] | None:
        """The suspects that are to be in the next trial (maybe none); None when there is nothing left to find out."""
        return None if self._trying is None else self._innocent.union(self._trying)

    def accepted(self) -> None:
        """The trial went well."""
        assert self._trying is not None
        self._sound = True
        self._innocent = self._innocent.union(self._trying)
        if self._doubtful is not None:
            doubtful, self._doubtful = self._doubtful, None
            self._settle(*doubtful)
        self._next()

    def refused(self, why: str) -> None:
        """It did not."""
        assert self._trying is not None
        if self._doubtful is not None:  # nobody was in it
            self.hopeless, self._trying = True, None
            return
        self._take(self._trying, why)

    def _take(self, group: Sequence[T], why: str) -> None:
        """A group was refused. Is the rest sound? That is tried before the first of them is blamed."""
        if self._sound:
            self._settle(group, why)
            self._next()
        else:
            self._doubtful, self._trying = (group, why), ()

    def _settle(self, group: Sequence[T], why: str) -> None:
        if len(group) == 1:
            self.guilty[group[0]] = why
        else:
            self._groups += _halves(group)

    def _next(self) -> None:
        self._trying = self._groups.pop() if self._groups else None
        if self._trying and self._innocent.union(self._trying) == self._everyone:
            self._take(self._trying, self._why)  # the whole, again


def _halves(group: Sequence[T]) -> list[Sequence[T]]:
    """The first half comes last: groups are taken from the end."""
    middle = (len(group) + 1) // 2
    return [half for half in (group[middle:], group[:middle]) if half]
