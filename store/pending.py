"""When to look at files that something happened to. Pure: the caller says what it was told and what time it is.

A file that was closed by its writer or renamed into its place is whole, so it is looked at almost at once. One that is
gone may be about to be written anew, as many editors do, and one that was made may still be written: these have to
stay as they are for a while first, lest their policies be lifted in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GATHER = 0.005  # seconds; whoever writes one file often writes several
SETTLE = 0.03  # seconds without further news of a file that may not be whole
LONGEST = 0.12  # seconds after the first news of it, whatever goes on


@dataclass(frozen=True, slots=True)
class Look:
    """What to look at: these files, or all there is."""

    files: frozenset[str] = frozenset()
    everything: bool = False


@dataclass(slots=True)
class _Waiting:
    """One file, or (with no name) all there is; times are in seconds of one clock."""

    since: float
    due: float
    whole: bool


@dataclass(slots=True)
class Pending:
    """What was told of and not looked at yet."""

    _files: dict[str | None, _Waiting] = field(default_factory=dict)

    def tell(self, file: str | None, now: float, *, whole: bool) -> None:
        """Something happened to a file (None: to anything, a folder for one). `whole`: its writer has done with it."""
        known = self._files.get(file)
        since = known.since if known is not None else now
        self._files[file] = _Waiting(since, min(now + (GATHER if whole else SETTLE), since + LONGEST), whole)

    @property
    def due(self) -> float | None:
        """When `take` has something to give."""
        return min((waiting.due for waiting in self._files.values()), default=None)

    def take(self, now: float) -> Look | None:
        """What is to be looked at now, and all that is whole with it; None when it is too early for anything."""
        if (due := self.due) is None or due > now:
            return None
        taken = {file for file, waiting in self._files.items() if waiting.whole or waiting.due <= now}
        for file in taken:
            del self._files[file]
        return Look(frozenset(file for file in taken if file is not None), None in taken)
