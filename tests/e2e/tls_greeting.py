"""TLS greetings (ClientHello) written by hand, and the records they come in.

https://www.rfc-editor.org/rfc/rfc8446#section-4.1.2
"""

from __future__ import annotations

import struct

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23  # kinds of records
SERVER_NAME, GROUPS, ALPN, ENCRYPTED_HELLO = 0, 10, 16, 0xFE0D  # of extensions
_SIGNATURES, _VERSIONS, _KEY_SHARE = 13, 43, 51
_P384 = 24
_RANDOM, _SESSION = bytes(range(32)), b"\x55" * 32


def vector(size: int, data: bytes) -> bytes:
    """With its length before it, in `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def record(kind: int, data: bytes) -> bytes:
    """https://www.rfc-editor.org/rfc/rfc8446#section-5.1"""
    return bytes([kind, 3, 1]) + vector(2, data)


def extension(kind: int, body: bytes) -> bytes:
    """One of a greeting."""
    return struct.pack("!H", kind) + vector(2, body)


def names(*listed: bytes, kind: int = 0) -> bytes:
    """The extension that names servers."""
    return extension(SERVER_NAME, vector(2, b"".join(bytes([kind]) + vector(2, each) for each in listed)))


def greeting(*extensions: bytes, share: bool = False) -> bytes:
    """A ClientHello message for TLS 1.3 with the group P-384. Without `share` it has no key for it yet, and a server
    asks for a second one."""
    point = b""
    if share:
        key = ec.generate_private_key(ec.SECP384R1()).public_key()
        point = struct.pack("!H", _P384) + vector(2, key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    body = b"\3\3" + _RANDOM + vector(1, _SESSION) + vector(2, b"\x13\x01\x13\x02") + vector(1, b"\0")
    body += vector(
        2,
        b"".join(extensions)
        + extension(GROUPS, vector(2, struct.pack("!H", _P384)))
        + extension(_SIGNATURES, vector(2, b"\4\3\5\3\x08\4"))
        + extension(_VERSIONS, vector(1, b"\3\4"))
        + extension(_KEY_SHARE, vector(2, point)),
    )
    return b"\x01" + vector(3, body)
