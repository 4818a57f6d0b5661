"""What the compiler made of a source of bpf/, as a value: programs, and the maps that they name.

Nothing in it belongs to one kernel, one folder of pins or one process: an instruction that loads a map names its place
in `maps`, and where a map is pinned is for the loader to know. As bytes it carries a checksum, and what is damaged is
refused as a whole.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

_HEAD = b"lockgate eBPF programs 1\n"
_DIGEST = 64  # hexadecimal digits, and a line's end
_INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: code, registers, offset, immediate value
_LOAD = 0x18  # BPF_LD | BPF_IMM | BPF_DW, the one instruction that takes two places
_NUMBER, _MAP = 0, 1  # what it loads, by its source register: BPF_PSEUDO_MAP_FD is the descriptor of a map
_IMMEDIATE = 4  # bytes before it


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is made with: `kind` and `flags` are the kernel's numbers, sizes are bytes.

    `pinned`: it is shared and outlives its programs; else each that loads them has another.
    """

    name: str
    kind: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    pinned: bool


@dataclass(frozen=True, slots=True)
class ProgramSpec:
    """`loads`: where in `code` a map's descriptor belongs (in bytes), and which of the maps' (in `Compiled.maps`)."""

    code: bytes
    loads: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, code: bytes, places: Mapping[int, int]) -> ProgramSpec:
        """From instructions with descriptors in them; `places` says whose they are.

        Raises:
            ValueError: they refer to something else than these maps.
        """
        made, loads, at = bytearray(code), [], 0
        while at < len(made):
            operation, registers, _, value = _INSTRUCTION.unpack_from(made, at)
            if operation == _LOAD:
                source = registers >> 4
                if source == _MAP and value in places:
                    loads.append((at + _IMMEDIATE, places[value]))
                    struct.pack_into("<i", made, at + _IMMEDIATE, 0)
                elif source != _NUMBER:
                    raise ValueError(f"instruction {at // _INSTRUCTION.size} loads something that is no map of its own")
                at += _INSTRUCTION.size
            at += _INSTRUCTION.size
        return cls(bytes(made), tuple(loads))

    def with_maps(self, descriptors: Mapping[int, int]) -> bytes:
        """The instructions as the kernel takes them; `descriptors` by the maps' places."""
        made = bytearray(self.code)
        for at, place in self.loads:
            struct.pack_into("<i", made, at, descriptors[place])
        return bytes(made)


@dataclass(frozen=True, slots=True)
class Maker:
    """A file that the compiler was made of, as it was then. `changed` is of the clock, in ns."""

    path: str
    size: int
    changed: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """Programs by name, the maps of their source, and who made them."""

    maps: tuple[MapSpec, ...]
    programs: Mapping[str, ProgramSpec]
    license: str
    made_by: tuple[Maker, ...] = ()

    def to_bytes(self) -> bytes:
        """For a file."""
        body = json.dumps(
            {
                "license": self.license,
                "made_by": [[each.path, each.size, each.changed] for each in self.made_by],
                "maps": [
                    [each.name, each.kind, each.key_size, each.value_size, each.max_entries, each.flags, each.pinned]
                    for each in self.maps
                ],
                "programs": {name: [each.code.hex(), each.loads] for name, each in self.programs.items()},
            }
        ).encode()
        return _HEAD + sha256(body).hexdigest().encode() + b"\n" + body

    @classmethod
    def from_bytes(cls, data: bytes) -> Compiled:
        """The other way round. Raises ValueError with what is wrong."""
        start = len(_HEAD) + _DIGEST + 1
        if not data.startswith(_HEAD):
            raise ValueError("it holds something else")
        if data[len(_HEAD) : start] != sha256(data[start:]).hexdigest().encode() + b"\n":
            raise ValueError("it is damaged")
        read = json.loads(data[start:])
        return cls(
            tuple(MapSpec(*each) for each in read["maps"]),
            {name: ProgramSpec(bytes.fromhex(code), _pairs(loads)) for name, (code, loads) in read["programs"].items()},
            read["license"],
            tuple(Maker(*each) for each in read["made_by"]),
        )


def _pairs(loads: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((at, place) for at, place in loads)
