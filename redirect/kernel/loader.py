"""Programs that are compiled already go into the kernel and are pinned: all of them or none."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from . import syscall
from .compiled import Compiled, MapSpec
from .program_hook import ProgramHook


class Loader(threading.Thread):
    """Loads beside others, as the verifier takes its time. `failure`: what went wrong, if anything, after `join`."""

    def __init__(
        self,
        compiled: Compiled,
        map_folder: Path,
        pins: Sequence[tuple[ProgramHook, Path]],
    ) -> None:
        super().__init__(name="eBPF programs", daemon=True)
        self._compiled = compiled
        self._map_folder = map_folder
        self._pins = pins
        self.failure: Exception | None = None

    def run(self) -> None:
        """The thread's work."""
        try:
            load(self._compiled, self._map_folder, self._pins)
        except Exception as error:  # whatever it is, there is another way to these programs
            self.failure = error


def load(compiled: Compiled, map_folder: Path, pins: Sequence[tuple[ProgramHook, Path]]) -> None:
    """As bcc does it: maps that are pinned in `map_folder` are used as they are, missing ones made and pinned there.

    Nothing is pinned before the verifier has taken every program. Raises OSError, of which LoadError is the verifier's.
    """
    used = {place for hook, _ in pins for _, place in compiled.programs[hook.program].loads}
    with ExitStack() as stack:

        def held(fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        maps: dict[int, int] = {}
        unpinned: list[tuple[Path, int]] = []
        for place, spec in enumerate(compiled.maps):
            path = map_folder / spec.name
            if spec.pinned and path.exists():
                maps[place] = held(syscall.get(path))
            elif spec.pinned or place in used:
                maps[place] = held(_make(spec))
                if spec.pinned:
                    unpinned.append((path, maps[place]))
        for hook, path in pins:
            program = compiled.programs[hook.program]
            code = program.with_maps(maps)
            fd = syscall.load_program(hook.program_type, hook.verified_for, hook.program, code, compiled.license)
            unpinned.append((path, held(fd)))
        for path, fd in unpinned:
            syscall.pin(fd, path)


def _make(spec: MapSpec) -> int:
    return syscall.create_map(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.name)
