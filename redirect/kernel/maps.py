"""Pinned maps: read whole, write and delete entries."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import MapFullError, PinConflictError
from ..layout import COUNTERS, COUNTERS_NAME, SIZES, Codec
from . import syscall
from .syscall import Command

K = TypeVar("K")
V = TypeVar("V")

_BATCH = 4096  # entries in one call
_FEW = 8  # below that a call an entry costs no more than preparing a batch


class PinnedMap(Generic[K, V]):
    """One map of the data path. Close it when done; the pin keeps the map alive."""

    def __init__(self, folder: Path, codec: Codec[K, V]) -> None:
        self._codec = codec
        self._fd = open_map(folder, codec.name)

    @property
    def id(self) -> int:
        """The kernel's number of the map."""
        return syscall.map_info(self._fd).id

    @property
    def room(self) -> int:
        """How many entries it can hold."""
        return syscall.map_info(self._fd).max_entries

    def require(self, entries: int) -> None:
        """Raises MapFullError when it cannot hold so many."""
        if entries > self.room:
            raise MapFullError(
                f"the policies of this node need {entries} entries of the BPF map {self._codec.name} (those in force "
                f"included, until they go), which holds {self.room}: nothing is changed; use fewer peers or port ranges"
            )

    def close(self) -> None:
        """Forget the descriptor."""
        os.close(self._fd)

    def read(self) -> dict[K, V]:
        """Every entry. Entries that others change meanwhile may be missed or seen twice; we are the only writer."""
        codec = self._codec
        return {
            codec.decode_key(key): codec.decode_value(value)
            for key, value in each_entry(self._fd, codec.key_size, codec.value_size)
        }

    def put(self, entries: Mapping[K, V]) -> None:
        """Write entries, replacing those that exist. Raises MapFullError; then some of them are written."""
        codec = self._codec
        encoded = [(codec.encode_key(key), codec.encode_value(value)) for key, value in entries.items()]
        try:
            if len(encoded) <= _FEW:
                for key, value in encoded:
                    self._element(Command.MAP_UPDATE_ELEM, key, value)
                return
            for start in range(0, len(encoded), _BATCH):
                self._update_batch(encoded[start : start + _BATCH])
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.E2BIG, errno.ENOMEM):
                raise MapFullError(
                    f"BPF map {codec.name} has no room for {len(encoded)} more entries (it holds {self.room}), or the "
                    f"machine no memory for them ({error.strerror}); use fewer peers or port ranges in the policies of "
                    "this node"
                ) from error
            raise

    def add(self, entries: Mapping[K, V]) -> None:
        """Write those that are not there as they are. Raises MapFullError as `put`."""
        self._add(entries, self.read())

    def hold(self, entries: Mapping[K, V]) -> None:
        """These and no others from now on; what was there before and is wanted stays all the while. Raises MapFullError
        as `put`."""
        held = self.read()
        self._add(entries, held)
        self.remove(held.keys() - entries.keys())

    def _add(self, entries: Mapping[K, V], held: Mapping[K, V]) -> None:
        self.put({key: value for key, value in entries.items() if held.get(key) != value})

    def remove(self, keys: Iterable[K]) -> None:
        """Delete entries; those that do not exist are fine."""
        for key in keys:
            try:
                self._element(Command.MAP_DELETE_ELEM, self._codec.encode_key(key), b"")
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

    def _element(self, command: Command, key: bytes, value: bytes) -> None:
        key_buffer = ctypes.create_string_buffer(key, len(key))
        value_buffer = ctypes.create_string_buffer(value, max(len(value), 1))
        where = ctypes.addressof(value_buffer) if value else 0
        syscall.bpf(command, struct.pack("=IIQQQ", self._fd, 0, ctypes.addressof(key_buffer), where, 0))

    def _update_batch(self, encoded: list[tuple[bytes, bytes]]) -> None:
        keys = b"".join(key for key, _ in encoded)
        values = b"".join(value for _, value in encoded)
        keys_buffer = ctypes.create_string_buffer(keys, len(keys))
        values_buffer = ctypes.create_string_buffer(values, len(values))
        syscall.bpf(
            Command.MAP_UPDATE_BATCH,
            struct.pack(
                "=QQQQIIQQ",
                0,
                0,
                ctypes.addressof(keys_buffer),
                ctypes.addressof(values_buffer),
                len(encoded),
                self._fd,
                0,
                0,
            ),
        )


class CounterMap:
    """The per-CPU counters."""

    def __init__(self, folder: Path, name: str) -> None:
        self._fd = open_map(folder, name)
        self._cpus = possible_cpus()

    def close(self) -> None:
        """Forget the descriptor."""
        os.close(self._fd)

    def read(self, indices: Iterable[int]) -> list[int]:
        """The sums over all CPUs."""
        key = ctypes.create_string_buffer(4)
        values = ctypes.create_string_buffer(8 * self._cpus)
        attributes = struct.pack("=IIQQQ", self._fd, 0, ctypes.addressof(key), ctypes.addressof(values), 0)
        sums = []
        for index in indices:
            struct.pack_into("=I", key, 0, index)
            syscall.bpf(Command.MAP_LOOKUP_ELEM, attributes)
            sums.append(sum(struct.unpack(f"={self._cpus}Q", values.raw)))
        return sums


def lookup(fd: int, key: bytes, value_size: int) -> bytes | None:
    """The value of one entry; None when there is none."""
    key_buffer = ctypes.create_string_buffer(key, len(key))
    value = ctypes.create_string_buffer(value_size)
    attributes = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(key_buffer), ctypes.addressof(value), 0)
    try:
        syscall.bpf(Command.MAP_LOOKUP_ELEM, attributes)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return value.raw


def each_entry(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a map, one by one."""
    for keys, values in each_batch(fd, key_size, value_size):
        for index in range(len(keys) // key_size):
            yield (
                keys[index * key_size : (index + 1) * key_size],
                values[index * value_size : (index + 1) * value_size],
            )


def each_batch(fd: int, key_size: int, value_size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys of a map one behind the other, and its values in the same order, many with each call."""
    keys = ctypes.create_string_buffer(key_size * _BATCH)
    values = ctypes.create_string_buffer(value_size * _BATCH)
    position = ctypes.create_string_buffer(max(key_size, 8))
    where = ctypes.addressof(position)
    first, more = True, True
    while more:
        attributes = ctypes.create_string_buffer(
            struct.pack(
                "=QQQQIIQQ",
                0 if first else where,
                where,
                ctypes.addressof(keys),
                ctypes.addressof(values),
                _BATCH,
                fd,
                0,
                0,
            ),
            56,
        )
        try:
            syscall.bpf(Command.MAP_LOOKUP_BATCH, attributes)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            more = False
        first = False
        count = struct.unpack_from("=I", attributes, 32)[0]
        yield keys.raw[: count * key_size], values.raw[: count * value_size]


def open_map(folder: Path, name: str) -> int:
    """A descriptor of the map pinned as `folder/name`. Raises PinConflictError when its layout is not ours."""
    fd = syscall.get(folder / name)
    info = syscall.map_info(fd)
    if (info.key_size, info.value_size) != SIZES.get(name) or (name == COUNTERS_NAME and info.max_entries != COUNTERS):
        os.close(fd)
        raise PinConflictError(
            f"the BPF map {folder / name} was made by another version of Lockgate; "
            "stop that agent and remove its pins, or choose another pin folder"
        )
    return fd


def possible_cpus() -> int:
    """How many slots a per-CPU value has: the last number in "0-7" or "0,2-3", plus one."""
    text = Path("/sys/devices/system/cpu/possible").read_text().strip()
    return int(text.replace("-", ",").split(",")[-1]) + 1
