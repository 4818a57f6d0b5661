"""Pods at which no programs are yet: cut off from the first moment on, whether an agent runs or not.

PIN_DIR/maps/seen_interfaces        interfaces with programs, and those that are known to be no pod's
PIN_DIR/maps/pod_interfaces         what the names of pods' interfaces begin with
PIN_DIR/maps/pod_prefixes           where pods have their addresses
PIN_DIR/unseen-programs/...         the programs of bpf/unseen.c
table inet lockgate-pods (nftables) the rules that ask them
"""

from __future__ import annotations

import re
from collections.abc import Collection, Set
from dataclasses import dataclass
from pathlib import Path

from ..policies.identity import IPNetwork
from . import layout
from .kernel.asked_programs import Asked, AskedPrograms
from .kernel.maps import PinnedMap
from .kernel.unseen_hook import UnseenHook
from .kernel.unseen_table import UNSEEN_TABLE

_ASKED = Asked(
    "unseen-programs",
    UnseenHook,
    UNSEEN_TABLE,
    (layout.SEEN_INTERFACES, layout.POD_INTERFACES, layout.POD_PREFIXES),
)
_SEEN = 1
_HEX_FOLLOWS = 1  # bpf/unseen.c
# What a plugin adds to a name of its own: letters that end in none of a hexadecimal number, and that number.
_NUMBERED = re.compile(r"(.*[^0-9a-f])[0-9a-f]{6,}")
_NUMBER = re.compile("[0-9a-f]{6,}")


@dataclass(frozen=True, slots=True, order=True)
class PodName:
    """What the names of pods' interfaces begin with. `numbered`: a hexadecimal number of six digits or more follows,
    and nothing else."""

    stem: str
    numbered: bool = False

    def __str__(self) -> str:
        return f"{self.stem}{'[0-9a-f]' if self.numbered else ''}*"

    @property
    def flags(self) -> int:
        """As the kernel's map has it."""
        return len(self.stem) << 8 | (_HEX_FOLLOWS if self.numbered else 0)

    def covers(self, name: str) -> bool:
        """Whether an interface is called like that."""
        return name.startswith(self.stem) and (not self.numbered or _NUMBER.fullmatch(name, len(self.stem)) is not None)


# Of Azure's plugin, Calico, Amazon's, Google's, Cilium, and those of the CNI project (bridge, ptp).
OF_PLUGINS = frozenset(PodName(each, numbered=True) for each in ("azv", "cali", "eni", "gke", "lxc", "veth"))


def learned(name: str) -> PodName | None:
    """What the name of one pod's interface says of the others: `cali0123456789a` is one of `cali` and a number. None
    where it says nothing."""
    found = _NUMBERED.fullmatch(name)
    return PodName(found[1], numbered=True) if found is not None else None


class Unseen:
    """To be closed; what it did stays in the kernel until `remove_pinned`."""

    def __init__(self, pin_dir: Path, cache_dir: Path) -> None:
        """Loads programs that are not there yet, which takes seconds the first time. Until `guard` nobody is cut off
        who was not before.

        Raises:
            BpfUnsupportedError: the kernel or the caller's rights are not enough.
            ProgramRejectedError: the programs did not compile or load.
        """
        self._programs = AskedPrograms(_ASKED, pin_dir, cache_dir)
        maps = pin_dir / "maps"
        self._seen = PinnedMap(maps, layout.SEEN_INTERFACES)
        self._names = PinnedMap(maps, layout.POD_INTERFACES)
        self._prefixes = PinnedMap(maps, layout.POD_PREFIXES)
        try:
            self._programs.ask()
        except BaseException:
            self.close()
            raise

    def guard(self, prefixes: Collection[IPNetwork], names: Collection[PodName], seen: Set[int]) -> None:
        """From now on whoever has an address in these prefixes, or an interface that is called like these, is cut off,
        but for the interfaces (by ifindex) that are `seen`: those with programs, and those that are no pod's. Names
        with numbers were learned, and stay: nobody knows better while no pod is there. Raises RedirectError."""
        wanted = {each.stem: each.flags for each in (*self.names(), *names) if each.numbered}
        wanted |= {each.stem: each.flags for each in names if not each.numbered}
        self._seen.add(dict.fromkeys(seen, _SEEN))
        self._names.hold(wanted)
        self._prefixes.hold(dict.fromkeys(prefixes, _SEEN))
        self._seen.remove(self._seen.read().keys() - seen)
        self._programs.keep_asking()

    def names(self) -> frozenset[PodName]:
        """What the names of pods' interfaces begin with, as far as it is known."""
        return frozenset(PodName(stem, bool(flags & _HEX_FOLLOWS)) for stem, flags in self._names.read().items())

    def prefixes(self) -> frozenset[IPNetwork]:
        """Where pods have their addresses."""
        return frozenset(self._prefixes.read())

    def see(self, ifindex: int) -> None:
        """An interface has programs from now on."""
        self._seen.put({ifindex: _SEEN})

    def lose(self, ifindex: int) -> None:
        """It is about to have none."""
        self._seen.remove([ifindex])

    @staticmethod
    def dropped() -> int | None:
        """Packets from and to pods that nothing polices; None where they are let be."""
        return _ASKED.dropped()

    def close(self) -> None:
        """Let go of everything and leave the kernel at it."""
        for each in (self._programs, self._seen, self._names, self._prefixes):
            each.close()

    @staticmethod
    def remove_pinned(pin_dir: Path) -> None:
        """Take it all away: nobody is cut off any more. There may be nothing."""
        _ASKED.remove_pinned(pin_dir)
