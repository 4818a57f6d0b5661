from __future__ import annotations

import struct
import sys

import pytest
from lockgate.redirect.errors import BpfUnsupportedError
from lockgate.redirect.kernel.kernel_types import BTF, KernelTypes

NAMES = b"\0outer\0first\0inner\0deep\0number\0\0"


def name(text: str) -> int:
    return NAMES.index(b"\0" + text.encode() + b"\0") + 1 if text else 0


def kind(text: str, number: int, members: int, size: int) -> bytes:
    return struct.pack("=III", name(text), number << 24 | members, size)


def member(text: str, of: int, bits: int) -> bytes:
    return struct.pack("=III", name(text), of, bits)


def btf(*types: bytes) -> bytes:
    body = b"".join(types)
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(NAMES)) + body + NAMES


# struct outer { int first; union { struct inner { int deep : 3 bits; } inner; }; } by way of a typedef
TYPES = btf(
    kind("number", 1, 0, 4) + struct.pack("=I", 32),  # 1: int
    kind("", 4, 1, 4) + member("deep", 1, 3 << 24 | 64),  # 2: a struct with a bit field
    kind("inner", 8, 0, 2),  # 3: typedef of 2
    kind("", 5, 1, 4) + member("inner", 3, 32),  # 4: a union without a name
    kind("outer", 7, 0, 0),  # 5: a declaration only
    kind("outer", 4, 2, 16) + member("first", 1, 0) + member("", 4, 64),  # 6
)


def test_fields_in_fields() -> None:
    types = KernelTypes(TYPES)
    assert types.offset("outer", "first") == 0
    assert types.offset("outer", "inner") == 12
    assert types.offset("outer", "inner", "deep") == 20


def test_the_bits_of_a_field_that_is_less_than_a_byte() -> None:
    types = KernelTypes(TYPES)
    assert types.mask("outer", "inner", "deep") == (0b111 if sys.byteorder == "little" else 0b11100000)
    assert types.mask("outer", "first") == types.mask("outer", "inner") == 0


@pytest.mark.parametrize("path", [("outer", "deep"), ("outer", "nothing"), ("inner", "deep"), ("outer", "first", "x")])
def test_what_is_not_there(path: tuple[str, ...]) -> None:
    with pytest.raises(BpfUnsupportedError, match="has no field"):
        KernelTypes(TYPES).offset(*path)


def test_a_module_goes_on_where_the_kernel_ends() -> None:
    """Its types and strings are numbered on from the kernel's."""
    strings = b"own\0"
    own = struct.pack("=III", len(NAMES), 4 << 24 | 1, 8) + struct.pack("=III", name("inner"), 3, 32)
    module = struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(own), len(own), len(strings)) + own + strings
    types = KernelTypes(TYPES, module)
    assert types.offset("own", "inner", "deep") == 4 + 8
    assert types.offset("outer", "inner", "deep") == 20
    with pytest.raises(BpfUnsupportedError, match="has no field"):
        KernelTypes(TYPES).offset("own", "inner")


def test_what_is_no_type_information() -> None:
    for data in (b"", b"BTF", bytes(100)):
        with pytest.raises(BpfUnsupportedError):
            KernelTypes(data)


def test_this_kernel() -> None:
    """An sk_buff begins with its place in a queue: two pointers, then the device."""
    types = KernelTypes(BTF.read_bytes())
    assert types.offset("sk_buff", "dev") == 16
    assert types.offset("netdev_adjacent", "dev") == 0
    assert types.offset("net_device", "adj_list", "upper") == types.offset("net_device", "adj_list")
