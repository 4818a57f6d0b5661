"""The certificate, key and authority that the server shows to remote nodes, from files that may be replaced meanwhile.

New connections meet what is in the files; what is wrong with a new pair is told, and the one before stays in use.
"""

from __future__ import annotations

import stat
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from ..errors import CertificateError
from .certificates import Identity


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server is, and whose signature its clients must have (PEM)."""

    identity: Identity
    authority: bytes

    @property
    def expires(self) -> datetime:
        """When the certificate ceases to be valid, in UTC."""
        return self.identity.expires


class CertificateFiles:
    """PEM files. `read` first; from then on `renewed` tells, from any thread, what has changed."""

    def __init__(self, authority: Path, certificate: Path, key: Path) -> None:
        self._authority, self._certificate, self._key = authority, certificate, key
        self._stamps: tuple[tuple[int, ...], ...] = ()
        self._lock = threading.Lock()
        self._used: Credentials | None = None
        self.problem = ""  # with what is in the files now; empty when they are in use

    @property
    def used(self) -> Credentials:
        """What was read last and is good."""
        assert self._used is not None, "read first"
        return self._used

    def read(self) -> Credentials:
        """What is in the files. Raises CertificateError."""
        with self._lock:
            self._stamps = self._look()
            self._used = self._load()
            return self._used

    def renewed(self) -> Credentials | None:
        """What is in the files when that is other than before and good, else None."""
        with self._lock:
            try:
                stamps = self._look()
                if stamps == self._stamps and not self.problem:
                    return None
                found = self._load()
            except CertificateError as error:
                self.problem = f"{error}; the certificate before stays in use"
                return None
            self._stamps, self.problem = stamps, ""
            if found == self._used:
                return None
            self._used = found
            return found

    def _look(self) -> tuple[tuple[int, ...], ...]:
        try:
            found = [path.stat() for path in (self._authority, self._certificate, self._key)]
        except OSError as error:
            raise CertificateError(f"cannot read {error.filename}: {error.strerror}") from error
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns, each.st_mode) for each in found)

    def _load(self) -> Credentials:
        try:
            others = stat.S_IMODE(self._key.stat().st_mode) & 0o007
            authority, certificate, key = (
                path.read_bytes() for path in (self._authority, self._certificate, self._key)
            )
        except OSError as error:
            raise CertificateError(f"cannot read {error.filename}: {error.strerror}") from error
        if others:
            raise CertificateError(f"{self._key} can be read by everybody; run: chmod 600 {self._key}")
        authorities = _certificates(self._authority, authority)
        chain = _certificates(self._certificate, certificate)
        try:
            private = serialization.load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            raise CertificateError(f"{self._key} holds no PEM key without a password: {error}") from None
        leaf = chain[0]
        if _public(private.public_key()) != _public(leaf.public_key()):
            raise CertificateError(f"the key in {self._key} is not that of the certificate in {self._certificate}")
        if leaf.not_valid_after_utc <= datetime.now(UTC):
            raise CertificateError(f"the certificate in {self._certificate} was valid until {leaf.not_valid_after_utc}")
        if len(chain) == 1 and not any(_signed(leaf, each) for each in authorities):
            raise CertificateError(f"the certificate in {self._certificate} is not signed by {self._authority}")
        return Credentials(Identity(certificate, key), authority)


def _certificates(path: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(f"{path} holds no PEM certificate: {error}") from None


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _public(key: object) -> bytes:
    encode = key.public_bytes  # type: ignore[attr-defined]  # every kind of public key has it
    found: bytes = encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return found
