"""All modes of a run side by side: brought up one after the other, and taken down together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from .mode import Mode
from .workplace import uninterrupted


@contextmanager
def standing(modes: Sequence[Mode], say: Callable[[str], None]) -> Iterator[None]:
    """Started and checked while in the block; closed whatever happens, also those that had not been started.

    Raises BenchError: one did not start, or does not do what it should.
    """
    try:
        for mode in modes:
            say(f"{mode.title}: starting and checking")
            mode.start()
            mode.await_ready()
        yield
    finally:
        with uninterrupted():
            for mode in modes:
                mode.close()
