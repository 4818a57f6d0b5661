"""Programs and maps as values, and as bytes that are believed only whole."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lockgate.redirect.kernel.compiled import Compiled, Maker, MapSpec, ProgramSpec

EXIT = struct.pack("<BBhi", 0x95, 0, 0, 0)
MAPS = (MapSpec("policy", 11, 16, 4, 1024, 1, True), MapSpec("at_hand", 6, 4, 64, 1, 0, False))
MADE = Compiled(
    MAPS,
    {"from_pod": ProgramSpec(b"\x18\x11" + bytes(14) + EXIT, ((4, 1),)), "to_pod": ProgramSpec(EXIT)},
    "GPL",
    (Maker("/usr/lib/libbcc.so.0", 12345, 1_700_000_000_000_000_007),),
)


def load(source: int, value: int, more: int = 0) -> bytes:
    """r1 = a number of 64 bits, which `source` says the meaning of. The second half may look like another load."""
    return struct.pack("<BBhi", 0x18, source << 4 | 1, 0, value) + struct.pack("<BBhi", more, 0, 0, 0)


def test_a_file_gives_back_what_was_kept() -> None:
    assert Compiled.from_bytes(MADE.to_bytes()) == MADE


@given(st.data())
def test_of_a_damaged_file_nothing_is_believed(data: st.DataObject) -> None:
    whole = MADE.to_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), whole[:at], whole + whole[at:]):
        with pytest.raises(ValueError, match=r"damaged|something else"):
            Compiled.from_bytes(damaged)


def test_descriptors_become_places_and_descriptors_again() -> None:
    code = load(1, 7) + load(0, 7) + load(1, 9, more=0x18) + load(1, 7) + EXIT
    program = ProgramSpec.of(code, {7: 0, 9: 1})
    assert program.loads == ((4, 0), (36, 1), (52, 0))
    assert program == ProgramSpec.of(program.with_maps({0: 21, 1: 22}), {21: 0, 22: 1}), "whatever the descriptors were"
    assert program.with_maps({0: 7, 1: 9}) == code


@pytest.mark.parametrize("source", [1, 2, 3, 4])
def test_what_is_no_map_of_its_own_cannot_be_kept(source: int) -> None:
    with pytest.raises(ValueError, match="instruction 2"):
        ProgramSpec.of(load(1, 7) + load(source, 8) + EXIT, {7: 0})
