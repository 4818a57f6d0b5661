"""Processes of the node itself, by their control group: what they send and are sent is judged at their sockets.

Pinned beside the data path:

    PIN_DIR/process-links/NUMBER-PROGRAM    one link for each group and program
    PIN_DIR/process-programs/...            the programs of bpf/processes.c

Nothing of it is there before the first group is an endpoint. The number of such an endpoint is its group's, marked: the
kernel makes the same of the socket's group at each packet that it judges anew.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from .errors import (
    BpfUnsupportedError,
    EndpointUnreachableError,
    NamespaceGoneError,
    NotSeenError,
    RedirectError,
)
from .kernel import bpffs, cgroup, pinned_link
from .kernel.cgroup import ProcessHook
from .kernel.program import Loading
from .plan import GROUP_ENDPOINT

_LINKS, _PROGRAMS = "process-links", "process-programs"


def number_of(group: str) -> int:
    """The endpoint's number of the control group with this path.

    Raises NamespaceGoneError when there is none, NotSeenError when that cannot be told, EndpointUnreachableError for
    one that holds this very process, BpfUnsupportedError where no control groups (v2) are mounted.
    """
    return _number(cgroup.root(), group)


def _number(root: Path, group: str) -> int:
    path = root / group.lstrip("/")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NamespaceGoneError(
            f"control group {group} does not exist; start the service, or correct its path ('systemd-cgls' lists them)"
        ) from error
    except OSError as error:
        raise NotSeenError(f"control group {group} cannot be looked at ({error.strerror})") from error
    if f"{_own_group()}/".startswith(f"{group}/"):
        raise EndpointUnreachableError(
            f"control group {group} holds Lockgate itself, which is no workload; name the group of the service alone"
        )
    return GROUP_ENDPOINT | found.st_ino & 0xFFFFFFFF  # the inode is the group's number: kernel/cgroup/cgroup.c


def _own_group() -> str:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")


def present(groups: Collection[str]) -> dict[str, int]:
    """The endpoints' numbers of those that there are."""
    found: dict[str, int] = {}
    with suppress(BpfUnsupportedError):
        root = cgroup.root() if groups else Path()
        for group in groups:
            with suppress(RedirectError):
                found[group] = _number(root, group)
    return found


def parents(groups: Collection[str]) -> frozenset[str]:
    """The folders in which something happens when one of them comes or goes: the nearest that there are above each."""
    found: set[str] = set()
    with suppress(BpfUnsupportedError):
        root = cgroup.root() if groups else Path()
        for group in groups:
            above = (root / group.lstrip("/")).parent
            found.add(str(next(each for each in (above, *above.parents) if each.is_dir())))
    return frozenset(found)


class ControlGroups:
    """Those of one pin folder. Methods block for milliseconds (the one that loads the programs for a second); one
    thread at a time, with the folder's lock held by `Datapath`."""

    def __init__(self, pin_dir: Path, cache_dir: Path) -> None:
        self._pin_dir = pin_dir
        self._cache_dir = cache_dir
        self._links = pin_dir / _LINKS
        self._programs: Mapping[ProcessHook, int] = {}

    def take_over(self) -> None:
        """Exchange the programs behind the links of an earlier agent, also where it had no time for both. Raises as
        `attach`."""
        for number, hooks in self._alive().items():
            for hook in hooks:
                cgroup.swap(self._link(number, hook), self._loaded()[hook])

    def attach(self, number: int, group: str) -> None:
        """Police the group's sockets from now on; until a plan names it, all that they send and are sent is dropped.

        Doing it twice is fine.

        Raises:
            EndpointUnreachableError: the group is gone, or another has its path.
            BpfUnsupportedError, ProgramRejectedError: as `hold_published`.
        """
        if number_of(group) != number:
            raise EndpointUnreachableError(f"control group {group} has been made anew in this moment")
        for hook, fd in self._loaded().items():
            path = self._link(number, hook)
            if not self._is_alive(path):
                cgroup.create_pinned(hook, cgroup.root() / group.lstrip("/"), fd, path)

    def detach(self, number: int) -> None:
        """Stop policing a group. Unknown ones are fine."""
        for hook in ProcessHook:
            pinned_link.remove(self._link(number, hook))

    def attached(self) -> frozenset[int]:
        """The numbers of groups that both programs police. Links of groups that are gone are taken away."""
        return frozenset(number for number, hooks in self._alive().items() if len(hooks) == len(ProcessHook))

    def touched(self) -> frozenset[int]:
        """Those that at least one of them polices: nothing passes one alone."""
        return frozenset(self._alive())

    def close(self) -> None:
        """Let go of the programs and leave the kernel enforcing."""
        for fd in self._programs.values():
            os.close(fd)
        self._programs = {}

    @staticmethod
    def remove_pinned(pin_dir: Path) -> None:
        """Take the links away. There may be none."""
        pinned_link.remove_all(pin_dir / _LINKS)

    def _loaded(self) -> Mapping[ProcessHook, int]:
        if not self._programs:
            for name in (_LINKS, _PROGRAMS):
                bpffs.ensure_folder(self._pin_dir / name)
            loading = Loading(self._pin_dir / "maps", self._pin_dir / _PROGRAMS, ProcessHook, self._cache_dir)
            self._programs = loading.finish()
        return self._programs

    def _alive(self) -> dict[int, list[ProcessHook]]:
        found: dict[int, list[ProcessHook]] = {}
        for path in self._links.iterdir() if self._links.is_dir() else ():
            number, _, program = path.name.partition("-")
            for hook in ProcessHook:
                if hook.program == program and self._is_alive(path):
                    found.setdefault(int(number), []).append(hook)
        return found

    def _link(self, number: int, hook: ProcessHook) -> Path:
        return self._links / f"{number}-{hook.program}"

    @staticmethod
    def _is_alive(path: Path) -> bool:
        attached = cgroup.is_attached(path)
        if not attached and path.exists():
            path.unlink(missing_ok=True)
        return attached
