"""Which proxy judges what a rule leaves to one: where its connections are sent, and which rules get along.

A connection goes to one proxy, before anybody knows what is in it. So rules that cover the same peer and port but need
different proxies cannot both have their way: such a connection is closed.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from .endpoint_policy import DnsRules, HttpRules, KafkaRules, Protocol, ResolvedRule


class ProxyKind(StrEnum):
    """What a proxy expects a connection to speak."""

    HTTP = "http"
    TLS = "TLS"
    DNS = "dns"
    KAFKA = "kafka"


def proxy_of(rule: ResolvedRule, protocol: Protocol) -> ProxyKind | None:
    """The proxy of a rule that redirects; None when there is none for this protocol, which closes the connection."""
    if rule.tls is not None:
        return ProxyKind.TLS if protocol is Protocol.TCP and isinstance(rule.l7, HttpRules | None) else None
    if isinstance(rule.l7, HttpRules) and protocol is Protocol.TCP:
        return ProxyKind.HTTP
    if isinstance(rule.l7, KafkaRules) and protocol is Protocol.TCP:
        return ProxyKind.KAFKA
    if isinstance(rule.l7, DnsRules) and protocol in (Protocol.TCP, Protocol.UDP):
        return ProxyKind.DNS
    return None


def clash(rules: Iterable[ResolvedRule], protocol: Protocol) -> str:
    """Why no proxy can serve all of these rules, which cover one peer and port; empty when one can."""
    first: tuple[ResolvedRule, ProxyKind] | None = None
    for rule in rules:
        if not rule.redirects:
            continue
        kind = proxy_of(rule, protocol)
        if kind is None:
            return f"{rule.origin} needs a proxy, and none takes its requests over {protocol}"
        if first is not None and first[1] is not kind:
            return (
                f"{first[0].origin} needs the proxy for {first[1]} and {rule.origin} the one for {kind}, "
                "and a connection can go to one only"
            )
        first = first or (rule, kind)
    return ""
