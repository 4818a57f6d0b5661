"""TLS in pods: an authority with its certificates, a server that shows one, and clients that trust somebody."""

from __future__ import annotations

import http.client
import socket
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import CLOSED, DROPPED, PATIENCE, REFUSED, Answer, Line, Web

ALLOW_CLIENT_RENEGOTIATION = 1 << 8  # of OpenSSL 3, which does not by itself
UNTRUSTED = "untrusted"  # the client does not trust the certificate it is shown


class Authority:
    """A CA. Certificates last a day, from an hour ago on."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(self._name, self._key.public_key())
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = _pem(made.add_extension(usage, critical=True).sign(self._key, hashes.SHA256()))

    def issue(self, *names: str) -> tuple[bytes, bytes]:
        """A certificate for these DNS names and addresses and its key, both PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        made = self._certificate(subject, key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName(list(map(_general_name, names))), critical=False)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return _pem(made.sign(self._key, hashes.SHA256())), private

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(issuer_name=self._name, subject_name=subject, public_key=key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


class TlsWeb(Web):
    """The web server behind TLS. `accepted` counts TCP connections, also those that never spoke; `names` are what
    clients called the server, each time they greeted it. `curve` is the only one it takes, by its OpenSSL name."""

    def __init__(
        self, where: Namespace, port: int, certificate: tuple[bytes, bytes], folder: Path, curve: str = ""
    ) -> None:
        self.accepted = 0
        self.names: list[str | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = folder / f"server-{port}-{id(self):x}.pem"
        file.touch(0o600)
        file.write_bytes(certificate[0] + certificate[1])
        self._context.load_cert_chain(file)
        if curve:
            self._context.set_ecdh_curve(curve)
        self._context.options |= ALLOW_CLIENT_RENEGOTIATION
        self._context.sni_callback = lambda _, name, __: self.names.append(name)
        super().__init__(where, port)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, address = self.socket.accept()
        self.accepted += 1
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address


class TlsLine(Line):
    """The kept connection of a client in TLS. What goes wrong in the beginning is raised."""

    def __init__(self, where: Namespace, ip: object, port: int, context: ssl.SSLContext, name: str) -> None:
        super().__init__(where, ip, port)
        self._connection.sock = context.wrap_socket(self._connection.sock, server_hostname=name)


class TlsClient:
    """Trusts one authority. What came of a request is text: a status and body, or how the connection failed."""

    def __init__(self, authority: Authority) -> None:
        self._context = ssl.create_default_context(cadata=authority.pem.decode())

    def line(self, where: Namespace, ip: object, port: int, name: str) -> TlsLine:
        """A connection to be kept."""
        return TlsLine(where, ip, port, self._context, name)

    def fetch(
        self,
        where: Namespace,
        ip: object,
        port: int,
        name: str | None,
        path: str = "/",
        method: str = "GET",
        patience: float = PATIENCE,
    ) -> str:
        """One request on a connection of its own. `name` None: no server name, and any certificate will do."""
        context = self._context
        if name is None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            raw = netns.run_in(where.path, partial(socket.create_connection, (str(ip), port), timeout=patience))
        except TimeoutError:
            return DROPPED
        except ConnectionError:
            return REFUSED
        with raw:
            try:
                with context.wrap_socket(raw, server_hostname=name) as secure:
                    connection = http.client.HTTPConnection(name or str(ip), port)
                    connection.sock = cast(socket.socket, secure)
                    connection.request(method, path)
                    response = connection.getresponse()
                    return str(Answer(response.status, response.read().decode()))
            except TimeoutError:
                return DROPPED
            except ssl.SSLCertVerificationError:
                return UNTRUSTED
            except (OSError, http.client.HTTPException):
                return CLOSED
