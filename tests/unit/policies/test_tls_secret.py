"""Secrets for TLS: what can be used, why the rest cannot, and that nothing shows one."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from lockgate.policies.endpoint_policy import TlsContext, TlsRules
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.model import SecretRef
from lockgate.policies.secret import Secret
from lockgate.policies.tls_secret import TlsMaterial, TlsSecrets, TlsSide, names_tls_secrets, tls_problems
from lockgate.tests.e2e.tls_pods import Authority

SHOWN = TlsContext(("default", "s"), "tls.crt", "tls.key")
TRUSTED = TlsContext(("default", "s"), trusted_ca="ca.crt")


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, password: bytes = b""
) -> bytes:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def secrets(**entries: bytes) -> TlsSecrets:
    data = {name.replace("_", "."): value for name, value in entries.items()}
    return TlsSecrets([Secret(SecretRef("default", "s"), data)])


def lacks(known: TlsSecrets, terminating: TlsContext | None, originating: TlsContext | None = None) -> list[str]:
    tls = known.resolved(TlsRules((), terminating, originating))
    assert tls is not None
    return [context.lacks for context in (tls.terminating, tls.originating) if context is not None]


def test_what_contexts_get(authority: Authority) -> None:
    chain, key = authority.issue("a.example")
    known = secrets(tls_crt=chain, tls_key=key, ca_crt=authority.pem)
    assert lacks(known, SHOWN, TRUSTED) == ["", ""]
    assert known.material(TlsSide.TERMINATING, SHOWN) == TlsMaterial(chain, key)
    # Towards servers Envoy has a certificate of its own when there is one.
    assert known.material(TlsSide.ORIGINATING, TRUSTED) == TlsMaterial(chain, key, authority.pem)
    only = secrets(ca_crt=authority.pem)
    assert only.material(TlsSide.ORIGINATING, TRUSTED) == TlsMaterial(trusted_ca=authority.pem)
    asking = TlsContext(("default", "s"), "tls.crt", "tls.key", "ca.crt")
    assert known.material(TlsSide.TERMINATING, asking) == TlsMaterial(chain, key, authority.pem)


def test_entries_may_have_other_names(authority: Authority) -> None:
    chain, key = authority.issue("a.example")
    known = secrets(my_chain=chain, my_key=key)
    assert lacks(known, TlsContext(("default", "s"), "my.chain", "my.key")) == [""]
    assert lacks(known, SHOWN) == ["secret default/s has no entry tls.crt"]


def test_why_a_secret_cannot_be_used(authority: Authority) -> None:
    chain, key = authority.issue("a.example")
    _, other = authority.issue("a.example")
    encrypted = pem(ec.generate_private_key(ec.SECP256R1()), b"password")
    short = pem(rsa.generate_private_key(65537, 1024))
    for entries, why in (
        ({"tls_crt": chain}, "secret default/s has no entry tls.key"),
        ({"tls_crt": b"x", "tls_key": key}, "secret default/s has no certificate in PEM"),
        ({"tls_crt": chain, "tls_key": b"x"}, "secret default/s has no private key in PEM"),
        ({"tls_crt": chain, "tls_key": encrypted}, "secret default/s has a private key that is encrypted"),
        ({"tls_crt": chain, "tls_key": other}, "secret default/s has a private key that is not its certificate's"),
        (
            {"tls_crt": chain, "tls_key": short},
            "secret default/s has an RSA key of less than 2048 bits, which Envoy refuses",
        ),
        (
            {"tls_crt": chain, "tls_key": pem(ed25519.Ed25519PrivateKey.generate())},
            "secret default/s has a key that is neither RSA nor of the curve P-256, P-384 or P-521, which Envoy "
            "refuses",
        ),
    ):
        assert lacks(secrets(**entries), SHOWN) == [why]
        with pytest.raises(LookupError, match=why):
            secrets(**entries).material(TlsSide.TERMINATING, SHOWN)
    no_authority = secrets(ca_crt=b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert lacks(no_authority, None, TRUSTED) == ["secret default/s has no certificate in PEM in its entry ca.crt"]
    assert lacks(TlsSecrets(), SHOWN, TRUSTED) == ["secret default/s is missing"] * 2


def test_rules_without_contexts_stay_as_they_are() -> None:
    tls = TlsRules(("a.example",))
    assert TlsSecrets().resolved(tls) is tls
    assert TlsSecrets().resolved(None) is None


def test_equal_secrets_are_equal(authority: Authority) -> None:
    assert secrets(ca_crt=authority.pem) == secrets(ca_crt=authority.pem)
    assert hash(secrets(ca_crt=authority.pem)) == hash(secrets(ca_crt=authority.pem))
    assert secrets(ca_crt=authority.pem) != secrets(ca_crt=b"")


def test_no_text_shows_one(authority: Authority) -> None:
    chain, key = authority.issue("a.example")
    known = secrets(tls_crt=chain, tls_key=key)
    shown = f"{known} {known!r} {known.material(TlsSide.TERMINATING, SHOWN)!r}"
    assert not any(line in shown for line in key.decode().splitlines())


def test_problems_say_where_and_what_comes_of_it() -> None:
    text = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: "443", protocol: TCP}]
      terminatingTLS: {secret: {namespace: other, name: s}}
"""
    (policy,) = parse_policies(text.encode(), "p.yaml").policies
    assert names_tls_secrets(policy)
    (problem,) = tls_problems([policy], TlsSecrets())[policy.key]
    assert str(problem) == (
        "p.yaml:9: warning: spec.egress[0].toPorts[0]: secret other/s is missing: connections that need it are denied; "
        "put a Secret with tls.crt, tls.key and ca.crt, as they are needed, beside it"
    )
