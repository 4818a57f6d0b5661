from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.xds.errors import WireError
from lockgate.xds.wire import fields, frame, number, string, submessage, text, varint


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.binary(max_size=300), st.text(min_size=1))
def test_what_is_written_is_read_back(count: int, payload: bytes, word: str) -> None:
    message = number(3, count) + frame(15, payload) + text(1, word)
    found = list(fields(message, "Test"))
    assert found == [*([(3, count)] if count else []), (15, payload), (1, word.encode())]


def test_defaults_are_left_out() -> None:
    assert text(1, "") == number(1, 0) == b""
    assert frame(1, b"") == b"\n\x00"


def test_fixed_width_numbers_are_read() -> None:
    assert list(fields(b"\x09" + (7).to_bytes(8, "little") + b"\x15" + (8).to_bytes(4, "little"), "Test")) == [
        (1, 7),
        (2, 8),
    ]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0a\x05abc", "says 5 bytes, 3 are left"),
        (b"\x0a", "ends inside a number"),
        (b"\x80", "ends inside a number"),
        (b"\x08" + b"\xff" * 11, "longer than 64 bits"),
        (b"\x0b", "wire type 3"),
        (b"\x09abc", "ends early"),
    ],
)
def test_broken_bytes_are_named(message: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        list(fields(message, "Test"))


def test_a_field_of_another_kind_is_refused() -> None:
    for read in (string, submessage):
        with pytest.raises(WireError, match="a number stands where"):
            read(1, "Test")
    with pytest.raises(WireError, match="not UTF-8"):
        string(b"\xff", "Test")


def test_varint_is_little_endian_in_groups_of_seven() -> None:
    assert varint(300) == b"\xac\x02"
