"""Programs that are compiled already go into the kernel and are pinned: all of them or none."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from . import cgroup, newcomer_hook, syscall, tcx
from .cgroup import PublishedHook, SocketHook
from .compiled import Compiled, MapSpec
from .newcomer_hook import NewcomerHook
from .tcx import Hook


class Loader(threading.Thread):
    """Loads beside others, as the verifier takes its time. `failure`: what went wrong, if anything, after `join`."""

    def __init__(
        self,
        compiled: Compiled,
        map_folder: Path,
        pins: Sequence[tuple[Hook | SocketHook | PublishedHook | NewcomerHook, Path]],
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


def load(
    compiled: Compiled, map_folder: Path, pins: Sequence[tuple[Hook | SocketHook | PublishedHook | NewcomerHook, Path]]
) -> None:
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
            kind, attach_type = _kind(hook)
            code = program.with_maps(maps)
            fd = syscall.load_program(kind, attach_type, hook.program, code, compiled.license)
            unpinned.append((path, held(fd)))
        for path, fd in unpinned:
            syscall.pin(fd, path)


def _make(spec: MapSpec) -> int:
    return syscall.create_map(spec.kind, spec.key_size, spec.value_size, spec.max_entries, spec.flags, spec.name)


def _kind(hook: Hook | SocketHook | PublishedHook | NewcomerHook) -> tuple[int, int]:
    """The program's type, and where it will be attached if the verifier has to know."""
    if isinstance(hook, NewcomerHook):
        return newcomer_hook.PROGRAM_TYPE, 0
    return (tcx.PROGRAM_TYPE, 0) if isinstance(hook, Hook) else (cgroup.PROGRAM_TYPE, hook.attach_type)
