"""The last packets that the kernel dropped, read from the ring that each CPU keeps of its own (bpf/drops.h).

Whoever reads too seldom misses some: the counters say how many there were.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeAlias

from ..policies.endpoint_policy import Direction
from . import layout
from .errors import NotLoadedError
from .kernel import syscall
from .kernel.maps import open_map, possible_cpus
from .kernel.syscall import Command
from .reason import Reason

_Address: TypeAlias = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, order=True)
class DroppedPacket:
    """`at` is on the monotonic clock, in nanoseconds. `reason` and `direction` are those of the counter it is in; ports
    are 0 and addresses unspecified where the packet was not read so far. `ifindex` is the number of an endpoint where
    processes of the node sent it or were to get it."""

    at: int
    source: _Address
    source_port: int
    destination: _Address
    destination_port: int
    protocol: int
    ifindex: int
    reason: Reason
    direction: Direction


class DropLog:
    """Opened on the maps below `pin_dir`. Raises NotLoadedError when there are none, PinConflictError when they are of
    another version."""

    def __init__(self, pin_dir: Path) -> None:
        if not (pin_dir / "maps" / layout.DROPS_NAME).exists():
            raise NotLoadedError(f"{pin_dir} holds no data path: no agent has loaded one for this --run-dir")
        self._fd = open_map(pin_dir / "maps", layout.DROPS_NAME)
        self._cpus = possible_cpus()

    def close(self) -> None:
        """Forget the descriptor."""
        os.close(self._fd)

    def read(self, after: int = 0) -> list[DroppedPacket]:
        """What is kept of packets dropped after that moment (`DroppedPacket.at`), the oldest first."""
        key = ctypes.create_string_buffer(4)
        values = ctypes.create_string_buffer(layout.DROP.size * self._cpus)
        attributes = struct.pack("=IIQQQ", self._fd, 0, ctypes.addressof(key), ctypes.addressof(values), 0)
        found = []
        for index in range(layout.DROPS_KEPT):
            struct.pack_into("=I", key, 0, index)
            syscall.bpf(Command.MAP_LOOKUP_ELEM, attributes)
            found += [_decode(*fields) for fields in layout.DROP.iter_unpack(values.raw) if fields[0] > after]
        return sorted(found, key=lambda each: each.at)


def _decode(
    at: int, source: bytes, destination: bytes, ports: bytes, ifindex: int, protocol: int, reason: int, hook: int
) -> DroppedPacket:
    source_port, destination_port = struct.unpack(">HH", ports)
    return DroppedPacket(
        at,
        _address(source),
        source_port,
        _address(destination),
        destination_port,
        protocol,
        ifindex,
        Reason(reason),
        Direction.INGRESS if hook else Direction.EGRESS,  # enum hook in bpf/maps.h
    )


def _address(data: bytes) -> _Address:
    address = IPv6Address(data)
    return address.ipv4_mapped or address
