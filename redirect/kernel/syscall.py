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
_NAME = 15  # bytes of a map's or program's name that the kernel keeps
_LOG = 1 << 20  # bytes of the verifier's log
_libc = ctypes.CDLL(None, use_errno=True)


class LoadError(OSError):
    """The kernel refused a program; `log` is what the verifier said."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(code, os.strerror(code))
        self.log = log


class Command(IntEnum):
    """`enum bpf_cmd`."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    PROG_LOAD = 5
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


def create_map(kind: int, key_size: int, value_size: int, max_entries: int, flags: int, name: str) -> int:
    """A descriptor of a new map. `kind`: `enum bpf_map_type`."""
    short = name.encode()[:_NAME]
    return bpf(Command.MAP_CREATE, struct.pack("=7I16s", kind, key_size, value_size, max_entries, flags, 0, 0, short))


def load_program(kind: int, attach_type: int, name: str, code: bytes, license: str) -> int:
    """A descriptor of a new program. `kind`: `enum bpf_prog_type`; `attach_type` 0 where the kind leaves it open.

    Raises LoadError.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    terms = ctypes.create_string_buffer(license.encode())
    log = ctypes.create_string_buffer(_LOG)

    def load(level: int) -> int:
        return bpf(
            Command.PROG_LOAD,
            struct.pack(
                "=IIQQIIQII16sII",
                *(kind, len(code) // 8, ctypes.addressof(instructions), ctypes.addressof(terms)),
                *((level, len(log), ctypes.addressof(log)) if level else (0, 0, 0)),
                *(0, 0, name.encode()[:_NAME], 0, attach_type),
            ),
        )

    try:
        return load(0)
    except OSError as refusal:
        try:
            return load(1)  # again, to be told why
        except OSError as error:
            raise LoadError(refusal.errno or 0, log.value.decode(errors="replace")) from error


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


def link_cgroup(fd: int) -> int:
    """The control group a link sits on; 0 when the group is gone."""
    group: int = struct.unpack_from("=Q", _info(fd), 16)[0]
    return group


def program_name(fd: int) -> str:
    """What a program is called, 15 bytes at most."""
    return _info(fd)[64:80].split(b"\0")[0].decode(errors="replace")


def _info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(128)
    bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, len(info), ctypes.addressof(info)))
    return info.raw
