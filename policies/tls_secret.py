"""Secrets as certificates and authorities for TLS: what TLS contexts of policies may use, and why they cannot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .endpoint_policy import TlsContext, TlsRules
from .language.problem import Problem, Severity
from .model import Policy, PolicyKey, SecretRef
from .secret import Secret

CERTIFICATE, PRIVATE_KEY, TRUSTED_CA = "tls.crt", "tls.key", "ca.crt"  # the entries when a policy names none

# What Envoy's TLS library takes: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/security/ssl
_SHORTEST_RSA = 2048
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


class TlsSide(StrEnum):
    """Towards whom Envoy uses a context: the client (terminatingTLS) or the server (originatingTLS)."""

    TERMINATING = "terminatingTLS"
    ORIGINATING = "originatingTLS"


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """PEM; empty is none. In no text that Python makes of it."""

    certificate: bytes = field(default=b"", repr=False)  # the chain, own certificate first
    private_key: bytes = field(default=b"", repr=False)
    trusted_ca: bytes = field(default=b"", repr=False)


class TlsSecrets:
    """The secrets that TLS contexts may name. Immutable; equal when the secrets are."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._secrets: Mapping[SecretRef, Secret] = MappingProxyType({secret.ref: secret for secret in secrets})
        self._known: dict[tuple[TlsSide, TlsContext], TlsMaterial | str] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TlsSecrets) and self._data() == other._data()

    def __hash__(self) -> int:
        return hash(frozenset(self._secrets))

    def _data(self) -> Mapping[SecretRef, Mapping[str, bytes]]:
        return {ref: secret.data for ref, secret in self._secrets.items()}

    def resolved(self, tls: TlsRules | None) -> TlsRules | None:
        """The rules with what their contexts lack."""
        if tls is None or (tls.terminating is None and tls.originating is None):
            return tls
        terminating = self._told(TlsSide.TERMINATING, tls.terminating)
        return replace(tls, terminating=terminating, originating=self._told(TlsSide.ORIGINATING, tls.originating))

    def material(self, side: TlsSide, context: TlsContext) -> TlsMaterial:
        """What a context that lacks nothing stands for. Raises LookupError for one that does."""
        found = self._look_up(side, replace(context, lacks=""))
        if isinstance(found, str):
            raise LookupError(found)
        return found

    def _told(self, side: TlsSide, context: TlsContext | None) -> TlsContext | None:
        if context is None:
            return None
        found = self._look_up(side, context)
        return replace(context, lacks=found) if isinstance(found, str) else context

    def _look_up(self, side: TlsSide, context: TlsContext) -> TlsMaterial | str:
        if (side, context) not in self._known:
            self._known[side, context] = self._read(side, context)
        return self._known[side, context]

    def _read(self, side: TlsSide, context: TlsContext) -> TlsMaterial | str:
        ref = SecretRef(*context.secret)
        if (secret := self._secrets.get(ref)) is None:
            return f"secret {ref} is missing"
        entries = {name: secret.data.get(name, b"") for name in (context.certificate, context.private_key)}
        entries[context.trusted_ca] = secret.data.get(context.trusted_ca, b"")
        if missing := next((name for name in entries if name and not entries[name]), ""):
            return f"secret {ref} has no entry {missing}"
        if side is TlsSide.ORIGINATING and not context.certificate and not context.private_key:
            own = secret.data.get(CERTIFICATE, b""), secret.data.get(PRIVATE_KEY, b"")
            certificate, key = own if all(own) and not _pair_fault(*own) else (b"", b"")
        else:
            certificate, key = entries[context.certificate], entries[context.private_key]
            if why := _pair_fault(certificate, key):
                return f"secret {ref} {why}"
        authority = entries[context.trusted_ca] if context.trusted_ca else b""
        if authority and not _certificates(authority):
            return f"secret {ref} has no certificate in PEM in its entry {context.trusted_ca}"
        return TlsMaterial(certificate, key, authority)


def tls_problems(policies: Iterable[Policy], secrets: TlsSecrets) -> dict[PolicyKey, tuple[Problem, ...]]:
    """A warning for each place where a policy names a secret that cannot be used; policies without one are left out."""
    found: dict[PolicyKey, tuple[Problem, ...]] = {}
    for policy in policies:
        problems: dict[Problem, None] = {}
        for rule in policy.rules:
            for entry in (*rule.ingress, *rule.egress):
                for ports in entry.ports or ():
                    tls = secrets.resolved(ports.tls)
                    for context in (tls.terminating, tls.originating) if tls is not None else ():
                        if context is not None and context.lacks:
                            message = f"{context.lacks}: connections that need it are denied"
                            hint = "put a Secret with tls.crt, tls.key and ca.crt, as they are needed, beside it"
                            problems[
                                Problem(policy.source, ports.line, ports.path, message, hint, Severity.WARNING)
                            ] = None
        if problems:
            found[policy.key] = tuple(problems)
    return found


def names_tls_secrets(policy: Policy) -> bool:
    """True when a rule has a TLS context."""
    return any(
        ports.tls is not None and (ports.tls.terminating is not None or ports.tls.originating is not None)
        for rule in policy.rules
        for entry in (*rule.ingress, *rule.egress)
        for ports in entry.ports or ()
    )


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _pair_fault(certificate: bytes, private_key: bytes) -> str:
    """Why no server can show this certificate; empty when one can. Quotes nothing of either."""
    if not (chain := _certificates(certificate)):
        return "has no certificate in PEM"
    try:
        key = serialization.load_pem_private_key(private_key, None)
        own = chain[0].public_key()
    except TypeError:
        return "has a private key that is encrypted"
    except (ValueError, UnsupportedAlgorithm):
        return "has no private key in PEM"
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < _SHORTEST_RSA:
            return f"has an RSA key of less than {_SHORTEST_RSA} bits, which Envoy refuses"
    elif not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
        return "has a key that is neither RSA nor of the curve P-256, P-384 or P-521, which Envoy refuses"
    return "" if own == key.public_key() else "has a private key that is not its certificate's"
