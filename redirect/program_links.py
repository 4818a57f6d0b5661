"""Which programs hang at which interfaces: the pins PIN_DIR/links/IFINDEX-PROGRAM, one TCX link each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .errors import PinConflictError
from .kernel import pinned_link, tcx
from .kernel.tcx import Hook


@dataclass(frozen=True, slots=True)
class Held:
    """Interfaces that programs are attached to: those of endpoints (both programs), uplinks, and bridges of engines.
    `begun`: of endpoints with one of them alone, as an agent leaves it that is killed between the two."""

    pods: frozenset[int]
    uplinks: frozenset[int]
    bridges: frozenset[int] = frozenset()
    begun: frozenset[int] = frozenset()


class ProgramLinks:
    """Those in one folder. Programs go by their file descriptors, which belong to somebody else."""

    def __init__(self, folder: Path, programs: Mapping[Hook, int]) -> None:
        self._folder = folder
        self._programs = programs

    def attach(self, ifindex: int, hooks: Iterable[Hook]) -> None:
        """Doing it twice is fine. Raises EndpointUnreachableError when the interface is gone."""
        for hook in hooks:
            if not self._holds(ifindex, hook):
                tcx.create_pinned(hook, ifindex, self._programs[hook], self._link(ifindex, hook))

    def detach(self, ifindex: int, hooks: Iterable[Hook]) -> None:
        """Unknown ones are fine."""
        for hook in hooks:
            pinned_link.remove(self._link(ifindex, hook))

    def has(self, ifindex: int, hooks: Iterable[Hook]) -> bool:
        """True when all of the programs are attached; a pin without interface is taken away."""
        return all(self._holds(ifindex, hook) for hook in hooks)

    def held(self) -> Held:
        """All of them. Links of interfaces that are gone are taken away."""
        found: dict[Hook, set[int]] = {hook: set() for hook in Hook}
        for path in self._folder.iterdir():
            ifindex = tcx.interface_of(path)
            if ifindex:
                found[_hook_of(path)].add(ifindex)
            else:
                path.unlink(missing_ok=True)
        return Held(
            frozenset(found[Hook.TO_POD] & found[Hook.FROM_POD]),
            frozenset(
                found[Hook.TO_UPLINK] & found[Hook.FROM_UPLINK] | found[Hook.TO_TUNNEL] & found[Hook.FROM_TUNNEL]
            ),
            frozenset(found[Hook.TO_BRIDGE] & found[Hook.FROM_BRIDGE]),
            frozenset(found[Hook.TO_POD] ^ found[Hook.FROM_POD]),
        )

    def take_over(self, before: Callable[[int, Hook], None], after: Callable[[int, Hook], None]) -> None:
        """Exchanges the programs behind the links of an earlier agent, one by one; `before` and `after` each they are
        called with its interface.

        Raises PinConflictError, before any is touched, when one is of a program that this version does not know.
        """
        links = {path: _hook_of(path) for path in self._folder.iterdir()}
        for path, hook in links.items():
            before(tcx.interface_of(path), hook)
            if ifindex := tcx.swap(path, self._programs[hook]):
                after(ifindex, hook)
            else:
                path.unlink(missing_ok=True)

    def _holds(self, ifindex: int, hook: Hook) -> bool:
        path = self._link(ifindex, hook)
        if not path.exists():
            return False
        if tcx.interface_of(path):
            return True
        path.unlink(missing_ok=True)
        return False

    def _link(self, ifindex: int, hook: Hook) -> Path:
        return self._folder / f"{ifindex}-{hook.program}"


def _hook_of(link: Path) -> Hook:
    for hook in Hook:
        if link.name.endswith(f"-{hook.program}"):
            return hook
    raise PinConflictError(
        f"{link} was put there by another version of Lockgate; start that one, or take away what it left by its "
        "'lockgate agent clean', which ends enforcement"
    )
