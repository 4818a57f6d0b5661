"""What a Kubernetes NetworkPolicy may not say."""

from __future__ import annotations

from textwrap import indent

import pytest
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.language.parse import ParsedPolicies, parse_policies
from lockgate.policies.model import Port


def parse(spec: str) -> ParsedPolicies:
    head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n"
    return parse_policies((head + indent(spec, "  ")).encode(), "p.yaml")


def entry(text: str) -> str:
    return f"podSelector: {{}}\ningress: [{text}]\n"


REFUSALS = [
    ("podSelector: {}\negres: []", 6, "spec.egres: unknown field 'egres'; did you mean 'egress'?"),
    (
        "podSelector: {}\npolicyTypes: [ingress]",
        6,
        "spec.policyTypes[0]: unknown policy type 'ingress'; did you mean 'Ingress'?",
    ),
    (entry("{to: []}"), 6, "spec.ingress[0].to: unknown field 'to'; use one of: from, ports"),
    (
        entry("{from: [{}]}"),
        6,
        "spec.ingress[0].from[0]: the peer is empty; write podSelector: {} for every pod of the namespace",
    ),
    (
        entry("{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}"),
        6,
        "spec.ingress[0].from[0]: ipBlock excludes podSelector and namespaceSelector; "
        "write one entry of the list for each",
    ),
    (
        entry("{from: [{ipBlock: {cidr: 10.0.0.0}}]}"),
        6,
        "spec.ingress[0].from[0].ipBlock.cidr: '10.0.0.0' has no prefix length; write 10.0.0.0/32 for one address",
    ),
    (
        entry("{ports: [{port: 0}]}"),
        6,
        "spec.ingress[0].ports[0].port: 0 is out of range; write a number from 1 to 65535",
    ),
    (
        entry("{ports: [{port: '80'}]}"),
        6,
        "spec.ingress[0].ports[0].port: '80' is not a port name; write a number without quotes, or a name",
    ),
    (
        entry("{ports: [{port: http, endPort: 90}]}"),
        6,
        "spec.ingress[0].ports[0].endPort: endPort needs a port number; write the number instead of 'http'",
    ),
    (
        entry("{ports: [{port: 90, endPort: 80}]}"),
        6,
        "spec.ingress[0].ports[0].endPort: endPort 80 is below port 90; write the smaller number in port",
    ),
    (
        entry("{ports: [{endPort: 80}]}"),
        6,
        "spec.ingress[0].ports[0].endPort: endPort without port; write the first port in port",
    ),
    (
        "podSelector: {matchLabels: {k8s:app: x}}",
        5,
        "spec.podSelector.matchLabels[k8s:app]: 'k8s:app' is not a label key; write name or prefix/name",
    ),
    (
        entry("{from: [{namespaceSelector: {matchLabels: {reserved:host: ''}}}]}"),
        6,
        "spec.ingress[0].from[0].namespaceSelector.matchLabels[reserved:host]: "
        "'reserved:host' is not a label key; write name or prefix/name",
    ),
    (
        entry("{ports: [{protocol: ANY}]}"),
        6,
        "spec.ingress[0].ports[0].protocol: unknown protocol 'ANY'; use one of: TCP, UDP, SCTP",
    ),
]


@pytest.mark.parametrize(("spec", "line", "message"), REFUSALS, ids=[row[2][:60] for row in REFUSALS])
def test_a_refusal_has_its_place_and_sentence(spec: str, line: int, message: str) -> None:
    parsed = parse(spec)
    assert [str(problem) for problem in parsed.problems] == [f"p.yaml:{line}: {message}"]
    assert parsed.policies == ()


def test_an_empty_egress_section_warns_and_denies_nothing() -> None:
    parsed = parse("podSelector: {}\negress: []")
    assert [problem.message for problem in parsed.problems] == ["an empty section denies no egress"]
    (rule,) = parsed.policies[0].rules
    assert (rule.deny_ingress, rule.deny_egress) == (True, False)


def test_a_section_outside_policy_types_warns_and_does_nothing() -> None:
    parsed = parse("podSelector: {}\npolicyTypes: [Egress]\ningress: [{}]")
    assert [problem.message for problem in parsed.problems] == [
        "the section has no effect: Ingress is not in policyTypes"
    ]
    (rule,) = parsed.policies[0].rules
    assert (rule.ingress, rule.deny_ingress, rule.deny_egress) == ((), False, True)


def test_ports() -> None:
    (rule,) = (
        parse(entry("{ports: [{port: 80}, {protocol: UDP, port: 5, endPort: 6}, {port: HTTP}, {protocol: SCTP}]}"))
        .policies[0]
        .rules
    )
    (listed,) = rule.ingress[0].ports or ()
    assert listed.ports == (
        Port((Protocol.TCP,), 80, 80),
        Port((Protocol.UDP,), 5, 6),
        Port((Protocol.TCP,), 0, 0, "http"),
        Port((Protocol.SCTP,)),
    )
