"""What can go wrong while Envoy is being told.

XdsError
├── WireError            bytes from a client are not the protobuf message they should be
├── SocketError          the server cannot listen on its socket
├── RemoteError          the server cannot listen for remote nodes
├── IdentityError        a remote client is not the node that it says it is
├── LimitError           a client wants more than it may have
├── SilentClientError    a client has not said in time who it is, or answered
├── CertificateError     a certificate or a key cannot be made, read or written
└── UnknownRevision      somebody waits for a snapshot that was never published
"""

from __future__ import annotations

from pathlib import Path


class XdsError(Exception):
    """Base of all errors of this package."""


class WireError(XdsError):
    """Bytes from a client are not the protobuf message they should be."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(f"cannot read a {message} from an xDS client: {reason}; the stream is closed")


class SocketError(XdsError):
    """The server cannot listen on its socket."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot serve xDS on {path}: {reason}")
        self.path = path


class RemoteError(XdsError):
    """The server cannot listen for remote nodes."""

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(f"cannot serve xDS on {address} port {port}: {reason}")


class IdentityError(XdsError):
    """A remote client is not the node that it says it is."""


class LimitError(XdsError):
    """A client wants more than it may have."""


class SilentClientError(XdsError):
    """A client has not said in time who it is, or answered to what it was told."""


class CertificateError(XdsError):
    """A certificate or a key cannot be made, read or written."""


class UnknownRevision(XdsError):  # noqa: N818  the name says what it is; the base class says that it is an error
    """Somebody waits for a snapshot that was never published."""

    def __init__(self, revision: int, latest: int) -> None:
        super().__init__(f"revision {revision} was never published; the latest is {latest}. Publish first, then wait")
        self.revision = revision
