"""A real ipcache, pinned, for an Envoy without a data path around it: who owns which address is the test's to say."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from uuid import uuid4

from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.policies.identity import IPNetwork
from lockgate.policies.workload import Endpoint
from lockgate.redirect.ipcache_map import IpcacheMap
from lockgate.redirect.kernel import bpffs, syscall
from lockgate.redirect.layout import GENERATION_NAME, IPCACHE
from lockgate.redirect.plan import Owner

_MAP_CREATE = 0
_ARRAY, _LPM_TRIE = 2, 11
_NO_PREALLOC, _MMAPABLE = 1, 1 << 10
_IFINDEX = 7  # of every local endpoint: here it only says that there is one


class PinnedIpcache:
    """Made by `pinned_ipcache`. `envoy` is what the identity filter needs to find it."""

    def __init__(self, folder: Path) -> None:
        self.map = IpcacheMap(folder)
        self.generation = self.map.generation
        self.envoy = Ipcache(folder / IPCACHE.name, self.map.id, self.generation.id)

    def hold(self, ipcache: Mapping[IPNetwork, int], endpoints: Iterable[Endpoint] = ()) -> None:
        """These owners and no others; `endpoints` are the ones of this node."""
        wanted = {network: Owner(identity) for network, identity in ipcache.items()}
        wanted |= {ip_network(ip): Owner(each.identity, _IFINDEX) for each in endpoints for ip in each.ips}
        self.set(wanted)
        self.map.remove(self.map.read().keys() - wanted.keys())

    def set(self, owners: Mapping[IPNetwork, Owner]) -> None:
        """Write these, and leave the others."""
        self.map.put(owners)

    def remove(self, networks: Iterable[IPNetwork]) -> None:
        """Make these nobody's, or that of the next shorter prefix."""
        self.map.remove(networks)

    def close(self) -> None:
        """Let go of the map."""
        self.map.close()


@contextmanager
def pinned_ipcache(
    ipcache: Mapping[IPNetwork, int], endpoints: Iterable[Endpoint] = (), name: str = ""
) -> Iterator[PinnedIpcache]:
    """An ipcache of this layout, in a folder of its own (`name`) in the BPF file system, until the block ends."""
    folder = Path("/sys/fs/bpf") / (name or f"lockgate-test-{uuid4().hex[:12]}")
    bpffs.ensure_folder(folder)
    try:
        _make(folder / IPCACHE.name, _LPM_TRIE, IPCACHE.key_size, IPCACHE.value_size, 4096, _NO_PREALLOC)
        _make(folder / GENERATION_NAME, _ARRAY, 4, 8, 1, _MMAPABLE)
        made = PinnedIpcache(folder)
        try:
            made.hold(ipcache, endpoints)
            yield made
        finally:
            made.close()
    finally:
        bpffs.remove_folder(folder)


def _make(pin: Path, *attributes: int) -> None:
    """A map of this type, key and value size, number of entries and flags."""
    packed = ctypes.create_string_buffer(struct.pack("=5I", *attributes), 72)
    fd = syscall.bpf(_MAP_CREATE, packed)  # type: ignore[arg-type]
    syscall.pin(fd, pin)
    os.close(fd)
