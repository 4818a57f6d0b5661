"""An authority and the certificate of an API server on 127.0.0.1."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificates(folder: Path, *more: str) -> tuple[Path, Path]:
    """An authority and, with its key, a certificate of 127.0.0.1 and `more` addresses, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    names = [x509.IPAddress(ip_address(each)) for each in ("127.0.0.1", *more)]

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, issuer: str, authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(_named(subject))
            .issuer_name(_named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(root, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority_file, server_file = folder / "ca.crt", folder / "server.pem"
    pem = serialization.Encoding.PEM
    authority_file.write_bytes(certificate("authority", root, "authority", True).public_bytes(pem))
    private = own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    server_file.write_bytes(certificate("server", own, "authority", False).public_bytes(pem) + private)
    return authority_file, server_file


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
