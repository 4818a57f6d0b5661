"""The connections that the kernel remembers: who is still talking to whom."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator, Set
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from ..policies.workload import IPAddress
from . import layout
from .maps import each_entry, open_map
from .revocation import LiveConnection

_TCP = 6
# After so many seconds of silence the kernel judges anew: bpf/conntrack.h.
_TCP_IDLE_SECONDS = 8000
_OTHER_IDLE_SECONDS = 60
_MAPPED = b"\0" * 10 + b"\xff\xff"
_KEY = struct.Struct(">16s16sHHB3x")  # struct connection_key: both addresses, both ports, the protocol
_VALUE = struct.Struct("=4xIII2s2xBBBx")  # struct connection: seen, interfaces, service, initiator, proxied, ended
_ENDED = 3


class ConnectionMap:
    """Reads the connections; the programs write them."""

    def __init__(self, folder: Path) -> None:
        self._fd = open_map(folder, layout.CONNECTIONS_NAME)

    def close(self) -> None:
        """Forget the descriptor."""
        os.close(self._fd)

    def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that have a connection which is neither ended nor silent for too long.

        Reads the whole map: some tens of milliseconds for a hundred thousand connections.
        """
        wanted = {packed(address): address for address in addresses}
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        found: set[IPAddress] = set()
        for key, value in each_entry(self._fd, *layout.SIZES[layout.CONNECTIONS_NAME]):
            address = wanted.get(key[:16]) or wanted.get(key[16:32])
            if address is None or address in found:
                continue
            *_, protocol = _KEY.unpack(key)
            seen, *_, ended = _VALUE.unpack(value)
            idle = _TCP_IDLE_SECONDS if protocol == _TCP else _OTHER_IDLE_SECONDS
            if ended != _ENDED and now - seen <= idle:
                found.add(address)
        return frozenset(found)

    def live(self) -> Iterator[LiveConnection]:
        """TCP connections that are neither ended nor silent for too long. As slow as `busy`."""
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        for key, value in each_entry(self._fd, *layout.SIZES[layout.CONNECTIONS_NAME]):
            *ends, protocol = _KEY.unpack(key)
            seen, *interfaces, service, initiator, proxied, ended = _VALUE.unpack(value)
            if protocol != _TCP or ended == _ENDED or now - seen > _TCP_IDLE_SECONDS:
                continue
            server = 1 - initiator
            yield LiveConnection(
                unpacked(ends[initiator]),
                ends[2 + initiator],
                interfaces[initiator],
                unpacked(ends[server]),
                ends[2 + server],
                interfaces[server],
                int.from_bytes(service, "big"),
                bool(proxied),
            )


def packed(address: IPv4Address | IPv6Address) -> bytes:
    """As the kernel's maps have it: IPv4 mapped into IPv6."""
    return address.packed if address.version == 6 else _MAPPED + address.packed


def unpacked(data: bytes) -> IPAddress:
    """The other way round."""
    return ip_address(data.removeprefix(_MAPPED))
