"""Containers and pods that nothing polices yet, and what holds them up until something does."""

from __future__ import annotations

from pathlib import Path

from .newcomers import Newcomers
from .unseen import Unseen


class Strangers:
    """Of one pin folder; nothing is held up until somebody asks for it. To be closed."""

    def __init__(self, pin_dir: Path, cache_dir: Path) -> None:
        self._pin_dir = pin_dir
        self._cache_dir = cache_dir
        self._newcomers: Newcomers | None = None
        self._unseen: Unseen | None = None

    def hold_newcomers(self) -> Newcomers:
        """Who comes to a bridge can be mute until it is policed: the caller says where. Raises as `Datapath.open`."""
        if self._newcomers is None:
            self._newcomers = Newcomers(self._pin_dir, self._cache_dir)
        return self._newcomers

    def free_newcomers(self) -> None:
        """They are let be."""
        if self._newcomers is not None:
            self._newcomers.close()
            self._newcomers = None
        Newcomers.remove_pinned(self._pin_dir)

    def newcomers_dropped(self) -> int | None:
        """Frames from and to newcomers since an agent took them up; None when they are let be."""
        return self._newcomers.dropped() if self._newcomers is not None else None

    def hold_unseen(self) -> Unseen:
        """Pods can be cut off until they are policed: the caller says who is one. Raises as `Datapath.open`."""
        if self._unseen is None:
            self._unseen = Unseen(self._pin_dir, self._cache_dir)
        return self._unseen

    def free_unseen(self) -> None:
        """They are let be."""
        if self._unseen is not None:
            self._unseen.close()
            self._unseen = None
        Unseen.remove_pinned(self._pin_dir)

    @property
    def unseen(self) -> Unseen | None:
        """None when they are let be."""
        return self._unseen

    def police(self, ifindex: int) -> None:
        """Programs are at this interface from now on. (Ports of bridges are told all at once.)"""
        if self._unseen is not None:
            self._unseen.see(ifindex)

    def leave(self, ifindex: int) -> None:
        """None are going to be."""
        if self._unseen is not None:
            self._unseen.lose(ifindex)

    def close(self) -> None:
        """Let go of everything and leave the kernel at it."""
        for each in (self._newcomers, self._unseen):
            if each is not None:
                each.close()

    @staticmethod
    def remove_pinned(pin_dir: Path) -> None:
        """Take it all away: nobody is held up any more. There may be nothing."""
        Newcomers.remove_pinned(pin_dir)
        Unseen.remove_pinned(pin_dir)
