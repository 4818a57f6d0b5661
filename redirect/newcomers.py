"""Ports of bridges of containers and pods at which no programs are yet: mute from the first moment on, whether an
agent runs or not.

PIN_DIR/maps/engine_bridges         the bridges that are guarded, and those that are known not to be
PIN_DIR/maps/engine_names           what a bridge is called that is guarded as long as nobody has said otherwise
PIN_DIR/maps/policed_ports          the ports with programs
PIN_DIR/newcomer-programs/...       the programs of bpf/newcomers.c
table bridge lockgate (nftables)    the rules that ask them
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from enum import IntFlag
from pathlib import Path

from . import layout
from .kernel.asked_programs import Asked, AskedPrograms
from .kernel.bridge_table import BRIDGE_TABLE
from .kernel.maps import PinnedMap
from .kernel.newcomer_hook import NewcomerHook

_ASKED = Asked(
    "newcomer-programs",
    NewcomerHook,
    BRIDGE_TABLE,
    (layout.ENGINE_BRIDGES, layout.ENGINE_NAMES, layout.POLICED_PORTS),
)
_LET_BE, _GUARDED = 0, 1
_POLICED = 1


class Names(IntFlag):
    """What bridges are called that nobody has named, by engines or by plugins of Kubernetes (LIKE_... in
    bpf/newcomers.c)."""

    NONE = 0
    DOCKERS = 1
    PODMANS = 2
    PODS = 4


_LIKE = {
    Names.DOCKERS: re.compile("docker0|br-[0-9a-f]{12}"),
    Names.PODMANS: re.compile("(cni-)?podman[0-9]+"),
    Names.PODS: re.compile("cni0|cbr0|kube-bridge"),
}


def named_like(bridge: str) -> Names:
    """Whose name it is."""
    return next((names for names, pattern in _LIKE.items() if pattern.fullmatch(bridge)), Names.NONE)


class Newcomers:
    """To be closed; what it did stays in the kernel until `remove_pinned`."""

    def __init__(self, pin_dir: Path, cache_dir: Path) -> None:
        """Loads programs that are not there yet, which takes seconds the first time, and makes the rules (anew).

        Raises:
            BpfUnsupportedError: the kernel or the caller's rights are not enough.
            ProgramRejectedError: the programs did not compile or load.
        """
        self._programs = AskedPrograms(_ASKED, pin_dir, cache_dir)
        maps = pin_dir / "maps"
        self._bridges = PinnedMap(maps, layout.ENGINE_BRIDGES)
        self._names = PinnedMap(maps, layout.ENGINE_NAMES)
        self._ports = PinnedMap(maps, layout.POLICED_PORTS)
        try:
            self._programs.ask()
        except BaseException:
            self.close()
            raise

    def guard(self, bridges: Mapping[int, bool], names: Names) -> None:
        """From now on who is at one of these bridges (by ifindex) and is not policed is mute, or is not; at any other
        it is where the bridge is called like these. Raises RedirectError."""
        self._bridges.hold({each: _GUARDED if guarded else _LET_BE for each, guarded in bridges.items()})
        self._names.put({0: names})
        self._programs.keep_asking()

    def by_name(self, bridges: Mapping[int, str]) -> frozenset[int]:
        """Those of these bridges that are guarded because of what they are called, and nothing else."""
        names, told = Names(self._names.read()[0]), self._bridges.read()
        return frozenset(each for each, name in bridges.items() if each not in told and named_like(name) & names)

    def police(self, ports: Set[int]) -> None:
        """The ports (by ifindex) that have programs, which judge what comes and goes. No other has."""
        self._ports.hold(dict.fromkeys(ports, _POLICED))

    @staticmethod
    def dropped() -> int | None:
        """Frames from and to newcomers; None where none are held back."""
        return _ASKED.dropped()

    def close(self) -> None:
        """Let go of everything and leave the kernel at it."""
        for each in (self._programs, self._bridges, self._names, self._ports):
            each.close()

    @staticmethod
    def remove_pinned(pin_dir: Path) -> None:
        """Take it all away: nobody is mute any more. There may be nothing."""
        _ASKED.remove_pinned(pin_dir)
