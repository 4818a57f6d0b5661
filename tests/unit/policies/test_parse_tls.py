"""Reading serverNames, terminatingTLS and originatingTLS."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import TlsContext, TlsRules
from lockgate.policies.language.parse import ParsedPolicies, parse_policies

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p, namespace: shop}
spec:
  endpointSelector: {}
  egress: [{toPorts: [{ports: [{port: "443", protocol: TCP}], %s}]}]
"""
SECRET = "secret: {name: s}"


def parsed(entry: str) -> ParsedPolicies:
    return parse_policies((POLICY % entry).encode(), "p.yaml")


@pytest.mark.parametrize(
    ("entry", "tls"),
    [
        ("serverNames: [A.Example, '*.b.example.']", TlsRules(("a.example", "*.b.example"))),
        (f"terminatingTLS: {{{SECRET}}}", TlsRules((), TlsContext(("shop", "s"), "tls.crt", "tls.key"))),
        (
            f"terminatingTLS: {{{SECRET}, trustedCA: ca, certificate: c, privateKey: k}}",
            TlsRules((), TlsContext(("shop", "s"), "c", "k", "ca")),
        ),
        (
            "originatingTLS: {secret: {namespace: x, name: s}}",
            TlsRules((), None, TlsContext(("x", "s"), trusted_ca="ca.crt")),
        ),
        (
            f"originatingTLS: {{{SECRET}, certificate: c, privateKey: k}}",
            TlsRules((), None, TlsContext(("shop", "s"), "c", "k", "ca.crt")),
        ),
    ],
)
def test_what_is_read(entry: str, tls: TlsRules) -> None:
    found = parsed(entry)
    assert found.problems == ()
    (policy,) = found.policies
    (egress,) = policy.rules[0].egress
    assert egress.ports is not None and egress.ports[0].tls == tls


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "serverNames: [a b]",
            "'a b' is not a server name; write a DNS name; '*' stands inside one label, '**' alone for many",
        ),
        *(
            (
                f"serverNames: ['{name}']",
                f"'{name}' is not a server name; write a DNS name; '*' stands inside one label, '**' alone for many",
            )
            for name in ("", "***.example", "a**.example", "a..example", ".example")
        ),
        (
            "serverNames: [a], rules: {http: [{}]}",
            "serverNames with rules but without terminatingTLS: the requests are encrypted; add terminatingTLS, or "
            "remove one of the two",
        ),
        (
            f"serverNames: [a], originatingTLS: {{{SECRET}}}",
            "originatingTLS for connections that are TLS already (serverNames); add terminatingTLS, or remove one of "
            "the two",
        ),
        (
            f"terminatingTLS: {{{SECRET}}}, rules: {{dns: [{{matchName: a.b}}]}}",
            "terminatingTLS with rules that are not http; use http rules, or none to carry any bytes",
        ),
        ("terminatingTLS: {}", "the TLS context has no secret; write secret: {namespace: ..., name: ...}"),
        (f"terminatingTLS: {{{SECRET}, publicCertificate: c}}", "unknown field 'publicCertificate'; did you mean"),
        (
            f"terminatingTLS: {{{SECRET}, certificate: a/b}}",
            "'a/b' is not the name of a secret's entry; write it as it stands under data",
        ),
        (
            f"originatingTLS: {{{SECRET}, certificate: c}}",
            "certificate and privateKey belong together; write both, or none",
        ),
    ],
)
def test_what_is_refused(entry: str, message: str) -> None:
    assert any(message in str(problem) for problem in parsed(entry).problems), parsed(entry).problems
