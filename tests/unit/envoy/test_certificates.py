"""Which certificates Envoy says that it uses, and which a Secret has."""

from __future__ import annotations

from cryptography import x509
from lockgate.envoy.inspection.certificates import serial_of, serials_in_use
from lockgate.tests.e2e.tls_pods import Authority
from lockgate.xds.compile.tls_resources import authority, certificate


def test_what_envoy_lists() -> None:
    listed = {
        "certificates": [
            {"ca_cert": [], "cert_chain": [{"serial_number": "6ca6a2", "path": "<inline>"}, {"serial_number": "01"}]},
            {"ca_cert": [{"serial_number": "ff"}]},
            {"ca_cert": [{"path": ""}], "cert_chain": []},
        ]
    }
    assert serials_in_use(listed) == {0x6CA6A2, 1, 255}
    assert serials_in_use({}) == frozenset()


def test_the_first_certificate_of_a_secret() -> None:
    made = Authority("test")
    chain, key = made.issue("a")
    own = x509.load_pem_x509_certificate(chain).serial_number
    root = x509.load_pem_x509_certificate(made.pem).serial_number
    assert serial_of(certificate("s", chain + made.pem, key).body) == own
    assert serial_of(authority("s", made.pem + chain).body) == root


def test_a_secret_without_one_that_can_be_read() -> None:
    broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    assert serial_of(certificate("s", broken, b"").body) is None
    assert serial_of(authority("s", b"").body) is None
