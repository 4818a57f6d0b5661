"""The connections that the kernel remembers: who is still talking to whom."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from ..policies.workload import IPAddress
from . import layout
from .kernel.maps import each_batch, lookup, open_map
from .layout import packed, unpacked
from .map_changes import MapChanges
from .plan import HOST_ENDPOINT

_TCP = 6
# After so many seconds of silence the kernel judges anew: bpf/conntrack.h.
_TCP_IDLE_SECONDS = 8000
_OTHER_IDLE_SECONDS = 60
_KEY = struct.Struct(">16s16sHHB3x")  # struct connection_key: both addresses, both ports, the protocol, whose view
# struct connection: seen, interfaces, identities, service, initiator, proxied, ended
_VALUE = struct.Struct("=4xIIIII2s2xBBBx")
_LIFE = struct.Struct("=4xI22xBx")  # of it: seen, ended
_ENDED = 3


@dataclass(frozen=True, slots=True)
class LiveConnection:
    """A TCP connection as the kernel remembers it. `service` is the port that was judged. `proxied`: one of Envoy's (or
    the DNS proxy's) two legs."""

    client: IPAddress
    client_port: int
    server: IPAddress
    server_port: int
    service: int
    proxied: bool
    client_interface: int = 0  # 0: no endpoint of this node
    server_interface: int = 0
    made_by: int = 0  # the client's identity then; 0: not known


@dataclass(frozen=True, slots=True)
class Concern:
    """Whom a change concerns: endpoints by interface, addresses as the maps have them, or perhaps everybody."""

    interfaces: Set[int]
    addresses: Set[bytes]
    everybody: bool = False

    @classmethod
    def of(cls, changes: MapChanges) -> Concern:
        """Of a change of the maps. A wider prefix than an address may concern anybody."""
        networks = [*changes.ipcache.put, *changes.ipcache.gone]
        whole = frozenset(packed(each.network_address) for each in networks if each.prefixlen == each.max_prefixlen)
        interfaces = changes.endpoints.put.keys() | changes.endpoints.gone
        return cls(interfaces, whole, len(whole) < len(networks) or HOST_ENDPOINT in interfaces)

    def touches(self, addresses: Iterable[bytes], interfaces: Iterable[int]) -> bool:
        """True when it may concern a connection with these ends."""
        return self.everybody or not (self.interfaces.isdisjoint(interfaces) and self.addresses.isdisjoint(addresses))


class ConnectionMap:
    """Reads the connections; the programs write them."""

    def __init__(self, folder: Path) -> None:
        self._fd = open_map(folder, layout.CONNECTIONS_NAME)

    def close(self) -> None:
        """Forget the descriptor."""
        os.close(self._fd)

    def busy(self, addresses: Set[IPAddress]) -> frozenset[IPAddress]:
        """Those of the addresses that have a connection which is neither ended nor silent for too long.

        Reads the whole map.
        """
        wanted = {packed(address): address for address in addresses}
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        found: set[IPAddress] = set()
        for key, value in self._going_on(now):
            address = wanted.get(key[:16]) or wanted.get(key[16:32])
            if address is None or address in found:
                continue
            *_, protocol = _KEY.unpack(key)
            seen, _ = _LIFE.unpack(value)
            if protocol == _TCP or now - seen <= _OTHER_IDLE_SECONDS:
                found.add(address)
        return frozenset(found)

    def made_by(
        self, client: IPAddress, client_port: int, server: IPAddress, server_port: int
    ) -> tuple[int, int] | None:
        """The identities of client and server when this TCP connection was made; None when the kernel does not know:
        it has forgotten the connection meanwhile, or never saw its beginning."""
        ends = [(packed(client), client_port), (packed(server), server_port)]
        at_client = int(_place(*ends[0]) > _place(*ends[1]))
        one, other = reversed(ends) if at_client else ends
        value = lookup(self._fd, _KEY.pack(one[0], other[0], one[1], other[1], _TCP), _VALUE.size)
        if value is None:
            return None
        _, _, _, *identities, _, _, _, _ = _VALUE.unpack(value)
        made = identities[at_client], identities[1 - at_client]
        return made if all(made) else None

    def live(self, concern: Concern) -> Iterator[LiveConnection]:
        """TCP connections that it touches and that are neither ended nor silent for too long. As slow as `busy`."""
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        for key, value in self._going_on(now):
            *ends, protocol = _KEY.unpack(key)
            _, *both, service, initiator, proxied, _ = _VALUE.unpack(value)
            interfaces, identities = both[:2], both[2:]
            if protocol != _TCP or not concern.touches(ends[:2], interfaces):
                continue
            server = 1 - initiator
            yield LiveConnection(
                unpacked(ends[initiator]),
                ends[2 + initiator],
                unpacked(ends[server]),
                ends[2 + server],
                int.from_bytes(service, "big"),
                bool(proxied),
                interfaces[initiator],
                interfaces[server],
                identities[initiator],
            )

    def _going_on(self, now: int) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values of those that are neither ended nor silent for longer than any may be. Nearly all are ended,
        so nothing more is made of these."""
        since = now - _TCP_IDLE_SECONDS
        key_size, value_size = layout.SIZES[layout.CONNECTIONS_NAME]
        for keys, values in each_batch(self._fd, key_size, value_size):
            for index, (seen, ended) in enumerate(_LIFE.iter_unpack(values)):
                if ended != _ENDED and seen >= since:
                    yield (
                        keys[index * key_size : (index + 1) * key_size],
                        values[index * value_size : (index + 1) * value_size],
                    )


def _place(address: bytes, port: int) -> tuple[object, ...]:
    """By which the smaller end is told, as bpf/conntrack.h does: by words as this machine reads them."""
    return struct.unpack("=4I", address), socket.htons(port)
