"""Resources around TLS, written straight to the wire: secrets, and listeners out of their parts.

https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/transport_sockets/tls/v3/secret.proto
"""

from __future__ import annotations

from collections.abc import Iterable

from ..snapshot import LISTENER, SECRET, Resource
from ..wire import frame, text
from .matcher import Matcher


def certificate(name: str, chain: bytes, private_key: bytes) -> Resource:
    """A certificate with its key, both PEM."""
    return Resource(SECRET, name, text(1, name) + frame(2, frame(1, _inline(chain)) + frame(2, _inline(private_key))))


def authority(name: str, certificates: bytes) -> Resource:
    """Whom to trust, PEM."""
    return Resource(SECRET, name, text(1, name) + frame(4, frame(1, _inline(certificates))))


def listener(name: str, begun: bytes, chains: Iterable[bytes], matcher: Matcher) -> Resource:
    """A serialised Listener with more filter chains, and the matcher that tells who takes which."""
    return Resource(LISTENER, name, begun + b"".join(frame(3, chain) for chain in chains) + frame(32, matcher))


def _inline(data: bytes) -> bytes:
    """A DataSource."""
    return frame(2, data)
