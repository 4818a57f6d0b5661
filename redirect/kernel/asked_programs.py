"""Pinned eBPF programs with the rules of nftables that ask them: both are there together, or neither."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BpfUnsupportedError
from ..layout import Codec
from . import bpffs
from .asking_table import AskingTable
from .program import Loading
from .program_hook import ProgramHook


@dataclass(frozen=True, slots=True)
class Asked:
    """`folder` in a pin folder has the programs at `hooks`, which `table` asks and which go by `maps`."""

    folder: str
    hooks: type[ProgramHook]
    table: AskingTable
    maps: tuple[Codec[Any, Any], ...]

    def dropped(self) -> int | None:
        """Packets that the programs said 0 of; None where they are not asked."""
        try:
            return self.table.dropped()
        except BpfUnsupportedError:
            return None

    def remove_pinned(self, pin_dir: Path) -> None:
        """Take it all away. There may be nothing."""
        programs = pin_dir / self.folder
        if programs.is_dir() and any(programs.iterdir()):
            self.table.remove()
            bpffs.empty_folder(programs)
            for codec in self.maps:
                (pin_dir / "maps" / codec.name).unlink(missing_ok=True)


class AskedPrograms:
    """To be closed; what is asked stays so in the kernel until `Asked.remove_pinned`."""

    def __init__(self, asked: Asked, pin_dir: Path, cache_dir: Path) -> None:
        """Loads programs that are not there yet, which takes seconds the first time.

        Raises:
            BpfUnsupportedError: the kernel or the caller's rights are not enough.
            ProgramRejectedError: the programs did not compile or load.
        """
        self._table = asked.table
        self._folder = pin_dir / asked.folder
        bpffs.ensure_folder(self._folder)
        self._programs = Loading(pin_dir / "maps", self._folder, asked.hooks, cache_dir).finish()

    def ask(self) -> None:
        """Makes the rules (anew). Raises BpfUnsupportedError; then the programs are no longer pinned."""
        try:
            self._table.install(self._programs)
        except BaseException:
            bpffs.empty_folder(self._folder)
            raise

    def keep_asking(self) -> None:
        """Makes the rules that somebody has flushed. Raises BpfUnsupportedError."""
        if self._table.dropped() is None:
            self._table.install(self._programs)

    def close(self) -> None:
        """Let go of the programs and leave the kernel at it."""
        for fd in self._programs.values():
            os.close(fd)
