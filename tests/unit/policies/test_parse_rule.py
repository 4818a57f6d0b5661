"""Refusals of a whole spec: its sections, and what excludes each other in them."""

from __future__ import annotations

import pytest
from lockgate.policies.language.parse import parse_policies
from lockgate.tests.unit.policies.refusals import (
    CLUSTERWIDE,
    FIRST,
    SELECTOR,
    P,
    Row,
    each_of,
    entry,
    refusal_of,
    spec,
)

REFUSALS: list[Row] = [
    (
        "ingress: [{}]",
        -1,
        "spec",
        "the rule has neither endpointSelector nor nodeSelector",
        "write endpointSelector: {}",
    ),
    (
        "endpointSelector: {}\nnodeSelector: {}\ningress: [{}]",
        -1,
        "spec",
        "the rule has both endpointSelector and nodeSelector",
        "write one of them",
    ),
    (
        "nodeSelector: {}\ningress: [{}]",
        0,
        "spec.nodeSelector",
        "nodeSelector is possible in a CiliumClusterwideNetworkPolicy only",
        "use endpointSelector",
    ),
    (SELECTOR, -1, "spec", "the rule has none of ingress, ingressDeny, egress and egressDeny", "write at least one"),
    (SELECTOR + "ingress: []", -1, "spec", "the rule has none of ingress, ingressDeny, egress and egressDeny", "write"),
    (SELECTOR + "ingres: [{}]\negress: [{}]", 1, "spec.ingres", "unknown field 'ingres'", "did you mean 'ingress'?"),
    (SELECTOR + "ingress: {}", 1, "spec.ingress", "a list expected, not a mapping", ""),
    (SELECTOR + "ingress:\n- 80", 2, "spec.ingress[0]", "a mapping expected, not the number 80", ""),
    (
        SELECTOR + "ingress: [{}]\ningress: [{}]",
        2,
        "spec.ingress",
        "written twice, first in line 7",
        "remove one of the two",
    ),
    (
        SELECTOR + "ingress: [{}]\nenableDefaultDeny: {ingress: 1}",
        2,
        "spec.enableDefaultDeny.ingress",
        "true or false expected, not the number 1",
        "",
    ),
    (
        SELECTOR + "ingress: [{}]\ndescription: 5",
        2,
        "spec.description",
        "text expected, not the number 5",
        'quote it: "5"',
    ),
    # deny sections, TLS, listeners, authentication
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]', "ingressDeny"),
        2,
        "spec.ingressDeny[0].toPorts[0].rules",
        "rules is not possible in a deny rule",
        "deny whole ports",
    ),
    (
        entry('toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.example]}]', "egressDeny"),
        2,
        "spec.egressDeny[0].toPorts[0].serverNames",
        "serverNames is not possible in a deny rule",
        "deny whole ports",
    ),
    (
        entry(
            'toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.example], rules: {http: [{}]}}]',
            "egress",
        ),
        2,
        "spec.egress[0].toPorts[0]",
        "serverNames with rules but without terminatingTLS: the requests are encrypted",
        "add terminatingTLS",
    ),
    (
        entry('toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: ["a_b c"]}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].serverNames[0]",
        "'a_b c' is not a server name",
        "write a DNS name",
    ),
    (
        entry('toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [""]}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].serverNames[0]",
        "'' is not a server name",
        "write a DNS name",
    ),
    (
        entry('toPorts: [{ports: [{port: "443", protocol: TCP}], terminatingTLS: {}}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].terminatingTLS",
        "the TLS context has no secret",
        "write secret",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], listener: {name: x}}]'),
        2,
        f"{P}.listener",
        "a listener is possible in egress only",
        "remove it",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], listener: {name: x}, rules: {http: [{}]}}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].listener",
        "a listener excludes rules",
        "remove one",
    ),
    (
        entry("authentication: {mode: maybe}"),
        2,
        "spec.ingress[0].authentication.mode",
        "unknown mode 'maybe'",
        "use one of: disabled, required, test-always-fail",
    ),
    (
        entry("authentication: {mode: disabled}\nfromEntities: [all]", "ingressDeny"),
        2,
        "spec.ingressDeny[0].authentication",
        "authentication is not possible in a deny rule",
        "remove it",
    ),
]


@each_of(REFUSALS)
def test_a_refusal_has_its_place_and_sentence(row: Row) -> None:
    assert refusal_of(row) == row[1:]


def test_http_under_a_node_selector() -> None:
    text = 'nodeSelector: {}\ningress:\n- toPorts:\n  - ports: [{port: "80", protocol: TCP}]\n    rules: {http: [{}]}\n'
    (problem,) = parse_policies(spec(text, CLUSTERWIDE), "p.yaml", refuse={}).problems
    assert (problem.line, problem.path) == (FIRST + 4, "spec.ingress[0].toPorts[0].rules")
    assert problem.message == "http rules are not possible under nodeSelector"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{}]}}]', "kafka rules are"),
        ('toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*"}]}}]', "dns rules are"),
        ('toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.test]}]', "serverNames is"),
        ("toFQDNs: [{matchName: a.test}]", "toFQDNs is"),
    ],
)
def test_no_proxy_under_a_node_selector(entry: str, message: str) -> None:
    text = f"nodeSelector: {{}}\negress:\n- {entry}\n"
    (problem,) = parse_policies(spec(text, CLUSTERWIDE), "p.yaml").problems
    assert problem.message == f"{message} not possible under nodeSelector"
