"""Where the fields of the kernel's own structures are, by its type information (https://docs.kernel.org/bpf/btf.html)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import BpfUnsupportedError

BTF = Path("/sys/kernel/btf/vmlinux")
CONNTRACK_BTF = BTF.with_name("nf_conntrack")  # where that is a module, once it is loaded
_MAGIC = 0xEB9F
_HEADER = struct.Struct("=HBBIIIII")  # magic, version, flags, header, types (offset, length), strings (offset, length)
_TYPE = struct.Struct("=III")  # name, kind and number of what follows, size or type
_INFO = struct.Struct("=I")  # of a type, its second word
_MEMBER = struct.Struct("=III")  # name, type, offset in bits and above it the width, if that is less than the type's
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF, _RESTRICT = 1, 3, 4, 5, 6, 8, 11
_FUNCTION, _VARIABLE, _SECTION, _TAG, _ENUM64 = 13, 14, 15, 17, 19
# What follows a type, in bytes: for each kind once, and once for each of the number that it says.
_FOLLOWS = {_INT: 4, _ARRAY: 12, _VARIABLE: 4, _TAG: 4}
_FOLLOWS_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNCTION: 8, _SECTION: 12, _ENUM64: 12}
_AT_ONCE = 1000  # types to be walked over


def _sections(btf: bytes) -> tuple[memoryview, memoryview]:
    """Types and strings."""
    magic, _, _, header, types, types_length, strings, strings_length = _HEADER.unpack_from(btf.ljust(24, b"\0"))
    if magic != _MAGIC:
        raise BpfUnsupportedError(f"{BTF.parent} has no type information of this machine's byte order")
    whole = memoryview(btf)[header:]
    return whole[types : types + types_length], whole[strings : strings + strings_length]


class KernelTypes:
    """Reads what is asked for only, behind the types before it. A `module` has types and strings that are numbered on
    from the kernel's. Raises BpfUnsupportedError when either is no type information."""

    def __init__(self, btf: bytes, module: bytes = b"") -> None:
        parts = [_sections(each) for each in (btf, module) if each or each is btf]
        self._types = memoryview(b"".join(types for types, _ in parts))
        self._strings = b"".join(strings for _, strings in parts)
        self._places: list[int] = []  # where each type begins; the first has the number 1
        self._walked = 0

    def offset(self, structure: str, *path: str) -> int:
        """In bytes, of a field, or of a field of a field. Raises BpfUnsupportedError when there is none."""
        return self._find(structure, path)[0] // 8

    def mask(self, structure: str, *path: str) -> int:
        """The bits that are the field's, of the byte at its offset; 0 when it is more than a part of a byte. Raises as
        `offset`."""
        bits, width = self._find(structure, path)
        first = bits % 8 if sys.byteorder == "little" else 8 - bits % 8 - width
        return ((1 << width) - 1) << first if width and first >= 0 and first + width <= 8 else 0

    def _find(self, structure: str, path: Sequence[str]) -> tuple[int, int]:
        """The offset in bits, and how many bits it is wide if that is said."""
        for at in self._named(structure):
            total, width, here = 0, 0, at
            for field in path:
                found = self._field(here, self._name(field))
                if found is None:
                    break
                total, width, here = total + found[0], found[1], self._place(found[2])
            else:
                return total, width
        raise BpfUnsupportedError(
            f"this kernel's struct {structure} has no field {'.'.join(path)}, which an eBPF program reads"
        )

    def _name(self, text: str) -> int:
        """Where the string is, which is there once; 0, which is no name, when it is not."""
        return self._strings.find(b"\0" + text.encode() + b"\0") + 1

    def _named(self, structure: str) -> Iterator[int]:
        name = self._name(structure)
        for at in self._each_place() if name else ():
            found, info, _ = _TYPE.unpack_from(self._types, at)
            if found == name and info >> 24 & 0x1F == _STRUCT:
                yield at

    def _field(self, at: int, name: int) -> tuple[int, int, int] | None:
        """The offset and the width in bits and the type's number of a field, also of a structure without a name that is
        in this one."""
        _, info, _ = _TYPE.unpack_from(self._types, at)
        if info >> 24 & 0x1F not in (_STRUCT, _UNION) or not name:
            return None
        begin = at + _TYPE.size
        members = self._types[begin : begin + (info & 0xFFFF) * _MEMBER.size]
        for found, kind, place in _MEMBER.iter_unpack(members):
            bits, width = place & 0xFFFFFF, place >> 24
            if found == name:
                return bits, width, kind
            if not found:
                inside = self._field(self._place(kind), name)
                if inside is not None:
                    return bits + inside[0], *inside[1:]
        return None

    def _place(self, number: int) -> int:
        """Of a type, behind its other names and qualifiers."""
        while len(self._places) < number and self._walked < len(self._types):
            self._walk()
        at = self._places[number - 1]
        _, info, kind = _TYPE.unpack_from(self._types, at)
        if _TYPEDEF <= info >> 24 & 0x1F <= _RESTRICT:
            return self._place(kind)
        return at

    def _each_place(self) -> Iterator[int]:
        number = 0
        while number < len(self._places) or self._walked < len(self._types):
            if number == len(self._places):
                self._walk()
            yield self._places[number]
            number += 1

    def _walk(self) -> None:
        """Some types further."""
        types, at = self._types, self._walked
        for _ in range(_AT_ONCE):
            if at >= len(types):
                break
            self._places.append(at)
            (info,) = _INFO.unpack_from(types, at + 4)
            kind = info >> 24 & 0x1F
            at += _TYPE.size + _FOLLOWS.get(kind, 0)
            if kind in _FOLLOWS_EACH:
                at += _FOLLOWS_EACH[kind] * (info & 0xFFFF)
        self._walked = at
