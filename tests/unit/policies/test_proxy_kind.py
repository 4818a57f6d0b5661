"""Which proxy a rule needs, and which rules cannot share a port."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    DnsRule,
    DnsRules,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    L7Rules,
    Protocol,
    ResolvedRule,
    RuleOrigin,
    TlsContext,
    TlsRules,
)
from lockgate.policies.identity import Reserved
from lockgate.policies.proxy_kind import ProxyKind, clash, proxy_of
from lockgate.policies.request import HttpRequest, TlsRequest
from lockgate.policies.verdict import Verdict, judge

HTTP = HttpRules((HttpRule(),))
DNS = DnsRules((DnsRule(match_pattern="*"),))
KAFKA = KafkaRules((KafkaRule(),))
NAMED = TlsRules(("a.example",))
OPENED = TlsRules((), TlsContext(("default", "certificate")))


def rule(l7: L7Rules | None = None, tls: TlsRules | None = None, name: str = "p") -> ResolvedRule:
    origin = RuleOrigin("CiliumNetworkPolicy", "default", name, "spec.egress[0]", "p.yaml", 1)
    return ResolvedRule(origin, False, None, None, l7, tls)


@pytest.mark.parametrize(
    ("l7", "tls", "protocol", "expected"),
    [
        (HTTP, None, Protocol.TCP, ProxyKind.HTTP),
        (HTTP, None, Protocol.UDP, None),
        (HTTP, OPENED, Protocol.TCP, ProxyKind.TLS),
        (HTTP, OPENED, Protocol.UDP, None),
        (None, NAMED, Protocol.TCP, ProxyKind.TLS),
        (None, NAMED, Protocol.UDP, None),
        (DNS, None, Protocol.UDP, ProxyKind.DNS),
        (DNS, None, Protocol.TCP, ProxyKind.DNS),
        (DNS, OPENED, Protocol.TCP, None),
        (KAFKA, None, Protocol.TCP, ProxyKind.KAFKA),
        (KAFKA, None, Protocol.SCTP, None),
        (KAFKA, OPENED, Protocol.TCP, None),
    ],
)
def test_the_proxy_of_a_rule(
    l7: L7Rules | None, tls: TlsRules | None, protocol: Protocol, expected: ProxyKind | None
) -> None:
    assert proxy_of(rule(l7, tls), protocol) is expected


def test_rules_that_can_share_a_port() -> None:
    assert clash([], Protocol.TCP) == ""
    assert clash([rule(), rule(HTTP), rule(HTTP)], Protocol.TCP) == ""
    assert clash([rule(None, NAMED), rule(HTTP, OPENED)], Protocol.TCP) == ""


def test_rules_that_cannot_are_a_denial_that_names_them() -> None:
    rules = (rule(None, NAMED, "names"), rule(HTTP, name="requests"), rule(name="plain"))
    why = (
        "default/names:spec.egress[0] needs the proxy for TLS and default/requests:spec.egress[0] the one for http, "
        "and a connection can go to one only"
    )
    assert clash(rules, Protocol.TCP) == why
    for request in (None, HttpRequest("GET", "/"), TlsRequest("a.example")):
        judgement = judge(DirectionPolicy(True, rules), 100, Protocol.TCP, 443, request)
        assert (judgement.verdict, judgement.reason, judgement.redirected) == (Verdict.DENY, why, False)
    host = judge(DirectionPolicy(True, rules), int(Reserved.HOST), Protocol.TCP, 443, direction=Direction.INGRESS)
    assert host.verdict is Verdict.ALLOW


def test_a_protocol_without_proxy_is_closed() -> None:
    judgement = judge(DirectionPolicy(True, (rule(None, NAMED),)), 100, Protocol.UDP, 443, TlsRequest("a.example"))
    assert judgement.reason == "default/p:spec.egress[0] needs a proxy, and none takes its requests over UDP"
