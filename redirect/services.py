"""Service addresses in the kernel: who asks for one, by a socket of this node's, is given a backend.

Pinned beside the data path, so that they outlive the agent (redirect/datapath.py):

    PIN_DIR/maps/service_*            the maps of bpf/service_maps.h
    PIN_DIR/service-links/PROGRAM     one link for each program, to the root of the cgroups
    PIN_DIR/service-programs/...      the programs

Nothing of it is there before the first service has an address. The links are at the root because a pod here is a
namespace of processes in whatever cgroup; the programs leave everybody alone whose network namespace is not listed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

from ..policies.service import Backend, Frontend
from ..policies.workload import IPAddress
from . import layout
from .alias import alias_table
from .kernel import bpffs, cgroup, pinned_link
from .kernel.cgroup import SocketHook
from .kernel.maps import PinnedMap, open_map
from .kernel.program import Loading
from .layout import Serving, SlotKey, Table

Wanted: TypeAlias = Mapping[Frontend, Mapping[Backend, int]]  # weights of those that serve

_FOLDERS = ("maps", "service-links", "service-programs")
_NOWHERE = Table(0, 0)


class ServiceAddresses:
    """The service addresses of one pin folder. Methods block for milliseconds (the one that loads the programs for a
    second); one thread at a time, with the folder's lock held by `Datapath`."""

    def __init__(self, pin_dir: Path, cache_dir: Path) -> None:
        self._pin_dir = pin_dir
        self._cache_dir = cache_dir
        self._kernel: _Kernel | None = None
        self._attached = False  # the programs are to be at the root of the cgroups

    def serving(self) -> Mapping[Frontend, Set[Backend]]:
        """Who serves, by what an agent before this one has left in the kernel."""
        if self._kernel is None and not self._pinned():
            return {}
        found: dict[Frontend, set[Backend]] = {}
        for frontend, backends in self._open().backends.items():
            found[frontend] = {backend for backend, weight in backends.items() if weight}
        return found

    def apply(self, wanted: Wanted, vips: Set[IPAddress], clients: Set[int]) -> None:
        """Serve `wanted`, and no other port of `vips`, to the network namespaces with these cookies.

        Connections that exist stay where they are. A frontend without backends refuses. Fails half-way without harm:
        calling it again converges.

        Raises:
            BpfUnsupportedError: no cgroups, or the kernel or the caller's rights are not enough.
            ProgramRejectedError, PinConflictError, MapFullError: as for the data path.
        """
        if not vips and self._kernel is None and not self._pinned():
            return
        kernel = self._open()
        kernel.apply(wanted, vips, clients)
        bpffs.ensure_folder(self._pin_dir / "service-links")
        self._attached = bool(vips)
        for hook in SocketHook:
            path = self._link(hook)
            if not vips:
                pinned_link.remove(path)
            elif not cgroup.is_attached(path):
                pinned_link.remove(path)
                cgroup.create_pinned(hook, cgroup.root(), kernel.programs[hook], path)

    def is_cut_off(self) -> bool:
        """True when somebody has taken a program off that was attached, and `apply` would attach it again."""
        # All pins are gone where their file system is: Datapath.keep_pins.
        return (
            self._attached and self._pinned() and not all(cgroup.is_attached(self._link(hook)) for hook in SocketHook)
        )

    def close(self) -> None:
        """Let go of everything and leave the kernel serving."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    @staticmethod
    def remove_pinned(pin_dir: Path) -> None:
        """Take the links away that an agent left behind; the maps go with the data path's."""
        pinned_link.remove_all(pin_dir / "service-links")

    def _link(self, hook: SocketHook) -> Path:
        return self._pin_dir / "service-links" / hook.program

    def _pinned(self) -> bool:
        return (self._pin_dir / "maps" / layout.SERVICE_FRONTENDS.name).exists()

    def _open(self) -> _Kernel:
        if self._kernel is None:
            for name in _FOLDERS:
                bpffs.ensure_folder(self._pin_dir / name)
            maps = self._pin_dir / "maps"
            for path in maps.glob("service_*"):  # of another version: refused before bcc opens them
                os.close(open_map(maps, path.name))
            programs = Loading(maps, self._pin_dir / "service-programs", SocketHook, self._cache_dir).finish()
            with ExitStack() as stack:
                for fd in programs.values():
                    stack.callback(os.close, fd)
                kernel = _Kernel(maps, programs)
                stack.pop_all()
            for hook in SocketHook:
                path = self._link(hook)
                if path.exists():
                    cgroup.swap(path, programs[hook])
            self._kernel = kernel
        return self._kernel


class _Kernel:
    """The open maps and programs, and what the maps hold."""

    def __init__(self, maps: Path, programs: Mapping[SocketHook, int]) -> None:
        self.programs = programs
        self._clients = PinnedMap(maps, layout.SERVICE_CLIENTS)
        self._frontends = PinnedMap(maps, layout.SERVICE_FRONTENDS)
        self._slots = PinnedMap(maps, layout.SERVICE_SLOTS)
        self._serving = PinnedMap(maps, layout.SERVICE_BACKENDS)
        self.backends: dict[Frontend, dict[Backend, int]] = {}
        self._tables: dict[Frontend | IPAddress, Table] = {}
        self._sound = False  # the tables are surely those of `backends`: not after another agent, or a failure
        self._read()

    def close(self) -> None:
        for opened in (self._clients, self._frontends, self._slots, self._serving):
            opened.close()
        for fd in self.programs.values():
            os.close(fd)

    def apply(self, wanted: Wanted, vips: Set[IPAddress], clients: Set[int]) -> None:
        sound, self._sound = self._sound, False
        if not sound:
            self._read()
        for frontend, weights in wanted.items():
            if not sound or frontend not in self._tables or self.backends.get(frontend, {}) != weights:
                self._replace(frontend, weights)
        addresses: dict[Frontend | IPAddress, Table] = {vip: _NOWHERE for vip in vips if vip not in self._tables}
        self._frontends.put(addresses)
        self._tables |= addresses
        for gone in [each for each in self._tables if each not in wanted and each not in vips]:
            self._drop(gone)
        held = self._clients.read().keys()
        self._clients.put(dict.fromkeys(clients - held, 1))
        self._clients.remove(held - clients)
        self._sound = True

    def _replace(self, frontend: Frontend, weights: Mapping[Backend, int]) -> None:
        """A new table beside the old one, the switch, and the old one goes: a choice finds one of the two whole."""
        before, old = self._tables.get(frontend, _NOWHERE), self.backends.get(frontend, {})
        number = self._free_number()
        slots = alias_table(weights)
        self._slots.put({SlotKey(number, index): slot for index, slot in enumerate(slots)})
        self._serving.put({Serving(frontend, backend): weight for backend, weight in weights.items()})
        table = Table(number, len(slots))
        self._frontends.put({frontend: table})
        self._tables[frontend], self.backends[frontend] = table, dict(weights)
        self._serving.remove(Serving(frontend, backend) for backend in old.keys() - weights.keys())
        self._slots.remove(SlotKey(before.number, index) for index in range(before.slots))

    def _drop(self, gone: Frontend | IPAddress) -> None:
        table = self._tables.pop(gone)
        self._frontends.remove([gone])
        if isinstance(gone, Frontend):
            self._serving.remove(Serving(gone, backend) for backend in self.backends.pop(gone, {}))
            self._slots.remove(SlotKey(table.number, index) for index in range(table.slots))

    def _free_number(self) -> int:
        taken = {table.number for table in self._tables.values()}
        return next(number for number in range(1, len(taken) + 2) if number not in taken)

    def _read(self) -> None:
        self._tables = self._frontends.read()
        self.backends = {}
        strays = []
        for serving, weight in self._serving.read().items():
            if serving.frontend in self._tables:
                self.backends.setdefault(serving.frontend, {})[serving.backend] = weight
            else:
                strays.append(serving)
        # Of an agent that ended between two writes.
        self._serving.remove(strays)
        slots = {table.number: table.slots for table in self._tables.values()}
        self._slots.remove(key for key in self._slots.read() if key.slot >= slots.get(key.table, 0))
