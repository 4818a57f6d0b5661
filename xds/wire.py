"""The protobuf wire format, as far as xDS needs it: frames are written by joining bytes and read by skipping.

Repeated and map fields concatenate on the wire, so a message of ten thousand rules is the join of ten thousand cached
fragments. Every message written this way is compared with the one that envoy-data-plane builds whole in the tests.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .errors import WireError

_LENGTH_DELIMITED = 2
_SMALL = tuple(bytes((number,)) for number in range(0x80))


def varint(number: int) -> bytes:
    """An unsigned number in base 128, least significant group first."""
    if number < 0x80:
        return _SMALL[number]
    groups = bytearray()
    while number >= 0x80:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_TAGS = tuple(varint(field << 3 | _LENGTH_DELIMITED) for field in range(64))


def frame(field: int, payload: bytes) -> bytes:
    """A length-delimited field (message, string, bytes) with a field number below 64, also when it is empty."""
    return _TAGS[field] + varint(len(payload)) + payload


def around(field: int, parts: Sequence[bytes]) -> list[bytes]:
    """`frame` of the joined parts, not joined yet: what is large is then copied once, however deep it is nested."""
    return [_TAGS[field] + varint(sum(map(len, parts))), *parts]


def text(field: int, value: str) -> bytes:
    """A string field; nothing when it is empty, as proto3 leaves out defaults outside a oneof."""
    return frame(field, value.encode()) if value else b""


def number(field: int, value: int) -> bytes:
    """An integer, bool or enum field; nothing when it is zero."""
    return varint(field << 3) + varint(value) if value else b""


def any_of_type(type_url: str, payload: bytes) -> bytes:
    """google.protobuf.Any around a serialised message."""
    return text(1, type_url) + (frame(2, payload) if payload else b"")


def fields(message: bytes, what: str) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a message: bytes for length-delimited fields, an int for numbers.

    `what` names the message in errors. Raises WireError when the bytes end early or use a retired wire type.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _read_varint(message, at, what)
        field, kind = tag >> 3, tag & 7
        if kind == _LENGTH_DELIMITED:
            size, at = _read_varint(message, at, what)
            if at + size > end:
                raise WireError(what, f"field {field} says {size} bytes, {end - at} are left")
            yield field, message[at : at + size]
            at += size
        elif kind == 0:
            value, at = _read_varint(message, at, what)
            yield field, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            if at + size > end:
                raise WireError(what, f"field {field} ends early")
            yield field, int.from_bytes(message[at : at + size], "little")
            at += size
        else:
            raise WireError(what, f"field {field} has wire type {kind}")


def string(value: int | bytes, what: str) -> str:
    """A string field's value. Raises WireError when it is not UTF-8 text."""
    if not isinstance(value, bytes):
        raise WireError(what, "a number stands where text should be")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise WireError(what, f"text is not UTF-8 ({error.reason})") from None


def submessage(value: int | bytes, what: str) -> bytes:
    """A message field's value. Raises WireError when a number stands there."""
    if not isinstance(value, bytes):
        raise WireError(what, "a number stands where a message should be")
    return value


def _read_varint(message: bytes, at: int, what: str) -> tuple[int, int]:
    value = shift = 0
    while at < len(message):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WireError(what, "a number is longer than 64 bits")
    raise WireError(what, "it ends inside a number")
