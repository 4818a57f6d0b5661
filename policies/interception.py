"""Which connections Envoy takes up: decrypts, and encrypts again towards the server (terminatingTLS, originatingTLS).

A connection is TLS or it is not, and may name its server. By that greeting alone, before anything in it can be read,
the rules that cover its peer and port say what becomes of it. As in the reference a connection has one secret at each
side: of rules that speak about the same connection and name different ones none has its way.
https://docs.cilium.io/en/stable/security/tls-visibility/
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .dns_name import any_server_name_matches
from .endpoint_policy import Direction, HttpRules, ResolvedRule, TlsContext, TlsRules

_MOST_TOLD = 5  # server names in one reason


class Greeting(NamedTuple):
    """What a connection shows first: whether it is TLS, and whom the client calls (SNI; empty when it does not)."""

    encrypted: bool
    server_name: str = ""


class Interception(NamedTuple):
    """What Envoy does to a connection: TLS with the client, TLS with the server, and whether it reads requests."""

    terminating: TlsContext | None
    originating: TlsContext | None
    http: bool

    def called(self, direction: Direction) -> str:
        """How Envoy's filter chain is called that does this for the policy of one direction:
        egress:http:default/web[tls.crt,tls.key,]:plain"""
        kind = "http" if self.http else "tcp"
        return f"{direction}:{kind}:{self.terminating or 'plain'}:{self.originating or 'plain'}"


class Taken(NamedTuple):
    """`fault` is why a connection that should be taken up cannot be; it is denied unless a rule allows it as it is."""

    interception: Interception | None = None
    fault: str = ""


def encrypts(tls: TlsRules) -> bool:
    """True when the rule speaks about TLS connections; else (originatingTLS alone) about all others."""
    return bool(tls.server_names) or tls.terminating is not None


def passed_over(tls: TlsRules, greeting: Greeting) -> str:
    """Why the rule does not speak about such a connection; empty when it does."""
    if encrypts(tls) is not greeting.encrypted:
        return "the connection is not TLS" if encrypts(tls) else "the connection is TLS already"
    if not tls.server_names:
        return ""
    if not greeting.server_name:
        return f"the connection names no server, and the rule is for {_listed(tls.server_names)}"
    if not any_server_name_matches(tls.server_names, greeting.server_name):
        return f"server name '{greeting.server_name}' is not {_listed(tls.server_names)}"
    return ""


def _listed(names: tuple[str, ...]) -> str:
    more = f" or {len(names) - _MOST_TOLD} more" if len(names) > _MOST_TOLD else ""
    return " or ".join(names[:_MOST_TOLD]) + more


def take_up(covering: Iterable[ResolvedRule], greeting: Greeting) -> Taken:
    """What the rules that cover a peer and a port, none of which denies, want with such a connection."""
    meant = [rule for rule in covering if rule.tls is not None and not passed_over(rule.tls, greeting)]
    first: ResolvedRule | None = None
    for rule in meant:
        contexts = contexts_of(rule)
        if not any(contexts):
            continue
        if lacking := next((each.lacks for each in contexts if each is not None and each.lacks), ""):
            return Taken(fault=f"{rule.origin} cannot take the connection up: {lacking}")
        if first is not None and contexts_of(first) != contexts:
            return Taken(fault=f"{first.origin} and {rule.origin} name different TLS contexts for one connection")
        first = first or rule
    if first is None:
        return Taken()
    return Taken(Interception(*contexts_of(first), any(isinstance(rule.l7, HttpRules) for rule in meant)))


def contexts_of(rule: ResolvedRule) -> tuple[TlsContext | None, TlsContext | None]:
    """Those of the client's side and of the server's."""
    return (rule.tls.terminating, rule.tls.originating) if rule.tls is not None else (None, None)
