"""bpf(2): the few commands the data path needs, without a library between.

Attributes are packed as in the kernel's `union bpf_attr` (include/uapi/linux/bpf.h). Everything raises OSError.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351, "ppc64le": 361}
_libc = ctypes.CDLL(None, use_errno=True)


class Command(IntEnum):
    """`enum bpf_cmd`."""

    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_GET_FD_BY_ID = 13
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34


def bpf(command: Command, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """One call; returns what the kernel returned (a file descriptor where the command makes one)."""
    number = _NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(f"bpf(2) has no known number on {platform.machine()}")
    buffer = (
        attributes if isinstance(attributes, ctypes.Array) else ctypes.create_string_buffer(attributes, len(attributes))
    )
    result: int = _libc.syscall(number, int(command), buffer, len(buffer))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def pin(fd: int, path: Path) -> None:
    """Give the object of `fd` a name in a BPF file system."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    bpf(Command.OBJ_PIN, struct.pack("=QII", ctypes.addressof(name), fd, 0))


def get(path: Path) -> int:
    """A new descriptor of the object pinned at `path`."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(Command.OBJ_GET, struct.pack("=QII", ctypes.addressof(name), 0, 0))


@dataclass(frozen=True, slots=True)
class MapInfo:
    """The kernel's number for it, sizes in bytes, and the room in entries."""

    id: int
    key_size: int
    value_size: int
    max_entries: int


def map_info(fd: int) -> MapInfo:
    """What a map was made with."""
    _, number, key_size, value_size, max_entries, _ = struct.unpack_from("=6I", _info(fd))
    return MapInfo(number, key_size, value_size, max_entries)


def link_ifindex(fd: int) -> int:
    """The interface a TCX link sits on; 0 when the interface is gone."""
    ifindex: int = struct.unpack_from("=I", _info(fd), 16)[0]
    return ifindex


def program_name(fd: int) -> str:
    """What a program is called, 15 bytes at most."""
    return _info(fd)[64:80].split(b"\0")[0].decode(errors="replace")


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(128)
    bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    return info.raw
