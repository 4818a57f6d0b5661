"""A small certificate authority for the xDS server and the nodes that come to it over TCP.

A node's certificate carries its id twice: as the common name, for people, and as the URI lockgate://node/ID in the
subject alternative name, which is what counts. Keys are EC P-256, unencrypted, for the owner only (mode 0600).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import CertificateError

NODE_URI = "lockgate://node/"
CA_DAYS, LEAF_DAYS = 3650, 365
_LEEWAY = timedelta(minutes=5)  # clocks differ
_LONGEST_COMMON_NAME = 64
# https://www.rfc-editor.org/rfc/rfc1035#section-2.3.1, and names of machines that have a _
_DNS_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*").fullmatch
_BOTH_ENDS = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes

    @property
    def expires(self) -> datetime:
        """When the certificate ceases to be valid, in UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def write(self, certificate: Path, key: Path, replace: bool = False) -> None:
        """To two files; the key's is for the owner only from its first byte on. A file that is there is left alone
        without `replace`, and with it renamed over. Raises CertificateError."""
        files = ((key, self.key, 0o600), (certificate, self.certificate, 0o644))
        try:
            for path, _, _ in files:
                if not replace and os.path.lexists(path):
                    raise CertificateError(f"{path} is there already and stays as it is; take another folder")
            certificate.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path, content, mode in files:
                new = path.with_name(f".{path.name}.new")
                new.unlink(missing_ok=True)
                with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                    file.write(content)
                if replace:
                    new.replace(path)
                else:
                    os.link(new, path)  # fails where a file has appeared meanwhile
                    new.unlink()
        except OSError as error:
            raise CertificateError(f"cannot write {error.filename}: {error.strerror}") from error


class Authority:
    """Signs certificates of servers and nodes."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._certificate = x509.load_pem_x509_certificate(identity.certificate)
        key = serialization.load_pem_private_key(identity.key, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificateError("the authority's key is no EC key; make a new authority")
        self._key = key

    @classmethod
    def new(cls, name: str = "lockgate", days: int = CA_DAYS) -> Authority:
        """A fresh one, self-signed."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _subject(f"{name} authority")
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = (
            _builder(subject, subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(Identity(_pem(builder.sign(key, hashes.SHA256())), _key_pem(key)))

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """That of `folder` (ca.pem, ca.key). Raises CertificateError."""
        try:
            return cls(Identity((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()))
        except OSError as error:
            raise CertificateError(
                f"cannot read {error.filename}: {error.strerror}; 'lockgate xds certificate authority' makes one"
            ) from error
        except (ValueError, TypeError) as error:
            raise CertificateError(f"{folder} holds no certificate authority: {error}") from error

    def node(self, node_id: str, days: int = LEAF_DAYS) -> Identity:
        """A certificate for the node of this id."""
        if not node_id:
            raise CertificateError("a node needs an id; give the one in its Envoy's bootstrap (node.id)")
        names = [x509.UniformResourceIdentifier(NODE_URI + quote(node_id, safe=""))]
        return self._leaf(node_id, names, days)

    def server(self, hosts: Sequence[str], days: int = LEAF_DAYS) -> Identity:
        """The agent's certificate, for these host names and addresses."""
        if not hosts:
            raise CertificateError("a server certificate needs a host name or an address")
        names = [_host(each) for each in hosts]
        return self._leaf(hosts[0], names, days)

    def _leaf(self, name: str, names: Sequence[x509.GeneralName], days: int) -> Identity:
        """Both ends serve the other: nodes are told their policies, and the agent what they have in force. Who is who
        the names say."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            _builder(_subject(name), self._certificate.subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(_BOTH_ENDS), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return Identity(_pem(builder.sign(self._key, hashes.SHA256())), _key_pem(key))


def node_of_names(names: Sequence[str]) -> str | None:
    """The node that a certificate with these subject alternative names is for; None when it is for none."""
    nodes = [unquote(name.removeprefix(NODE_URI)) for name in names if name.startswith(NODE_URI)]
    return nodes[0] if len(nodes) == 1 else None


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _LEEWAY)
        .not_valid_after(now + timedelta(days=days))
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_COMMON_NAME])])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        if not _DNS_NAME(name):
            raise CertificateError(f"'{name}' is no address and no DNS name; write other letters as xn--...") from None
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
