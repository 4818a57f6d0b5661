"""The first part of opening a data path: its folder is claimed, and its programs are on their way into the kernel.

It needs little, so an agent begins with it before the rest of it is even imported (redirect/datapath.py goes on).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from .errors import PinConflictError
from .kernel import bpffs
from .kernel.compiler import HOST_ROUTING
from .kernel.kept_programs import DEFAULT_CACHE_DIR
from .kernel.program import Loading
from .kernel.tcx import Hook

DEFAULT_PIN_DIR = Path("/sys/fs/bpf/lockgate")
_FOLDERS = ("maps", "links", "programs")


class Opening:
    """The claim on `pin_dir`; ended by `take` or `give_up`. The compiler's work is kept below `cache_dir`, for all.

    `host_routing`: pods' packets go straight to each other (bpf/host_routing.h).

    Raises:
        BpfUnsupportedError: the kernel or the caller's rights are not enough.
        PinConflictError: another agent holds `pin_dir`, or its maps have another layout.
    """

    def __init__(
        self, pin_dir: Path = DEFAULT_PIN_DIR, cache_dir: Path = DEFAULT_CACHE_DIR, *, host_routing: bool = False
    ) -> None:
        self.pin_dir = pin_dir
        self.cache_dir = cache_dir
        self.host_routing = host_routing
        self._new = not pin_dir.exists()
        bpffs.ensure_folder(pin_dir)
        self._lock = bpffs.lock(pin_dir)
        self._programs: Loading[Hook] | None = None
        try:
            for name in _FOLDERS:
                bpffs.ensure_folder(pin_dir / name)
            _check_layout(pin_dir / "maps")
            source = HOST_ROUTING if host_routing else ""
            self._programs = Loading(pin_dir / "maps", pin_dir / "programs", Hook, cache_dir, source)
        except BaseException:
            self.give_up()
            raise

    def take(self) -> tuple[int, Mapping[Hook, int]]:
        """The lock and the programs, as descriptors that are the caller's from now on. Waits for the compiler, some
        seconds; for the verifier, when the same version was compiled here before; or for nothing, when it ran.

        Raises:
            BpfUnsupportedError: the kernel or the caller's rights are not enough.
            ProgramRejectedError: the programs did not compile or load.
        """
        assert self._programs is not None, "it has been taken, or given up"
        programs = self._programs.finish()
        lock, self._lock, self._programs = self._lock, -1, None
        return lock, programs

    def give_up(self) -> None:
        """Leaves nothing behind that was not there before. What was taken is not its business any more."""
        if self._lock < 0:
            return
        if self._programs is not None:
            self._programs.give_up()
        if self._new:
            bpffs.remove_folder(self.pin_dir)
        os.close(self._lock)
        self._lock, self._programs = -1, None


def _check_layout(maps: Path) -> None:
    """Maps of another version must not be opened by bcc. One that only remembers is left to the programs that use it,
    and ends with them: what it knew is judged anew. Any other is refused."""
    found = [*maps.iterdir()]
    if not found:
        return
    from .kernel.maps import open_map  # with everything that a map can hold, for which the first start has no time
    from .layout import REMEMBERING

    for path in found:
        try:
            os.close(open_map(maps, path.name))
        except PinConflictError:
            if path.name not in REMEMBERING:
                raise
            path.unlink()
