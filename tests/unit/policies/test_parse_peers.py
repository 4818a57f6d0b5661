"""Refusals of peers."""

from __future__ import annotations

from lockgate.tests.unit.policies.refusals import (
    Row,
    each_of,
    entry,
    refusal_of,
)

REFUSALS: list[Row] = [
    (
        entry("fromEndpoints: [{}]\nfromEntities: [world]"),
        2,
        "spec.ingress[0]",
        "fromEndpoints and fromEntities in one entry are two kinds of peer",
        "write one entry",
    ),
    (
        entry("toCIDR: [10.0.0.0/8]\ntoCIDRSet: [{cidr: 10.0.0.0/8}]", "egress"),
        2,
        "spec.egress[0]",
        "toCIDR and toCIDRSet in one entry are two kinds of peer",
        "write one entry",
    ),
    (
        entry("toEndpoints: [{}]"),
        2,
        "spec.ingress[0].toEndpoints",
        "unknown field 'toEndpoints'",
        "did you mean 'fromEndpoints'?",
    ),
    (
        entry("fromEntities: [wrld]"),
        2,
        "spec.ingress[0].fromEntities[0]",
        "unknown entity 'wrld'",
        "did you mean 'world'?",
    ),
    (
        entry("fromEntities: [World]"),
        2,
        "spec.ingress[0].fromEntities[0]",
        "unknown entity 'World'",
        "did you mean 'world'?",
    ),
    (
        entry("fromCIDR: [10.0.0.1]"),
        2,
        "spec.ingress[0].fromCIDR[0]",
        "'10.0.0.1' has no prefix length",
        "write 10.0.0.1/32",
    ),
    (
        entry("fromCIDR: ['fd00::1']"),
        2,
        "spec.ingress[0].fromCIDR[0]",
        "'fd00::1' has no prefix length",
        "write fd00::1/128",
    ),
    (
        entry("fromCIDR: [10.0.0.0/33]"),
        2,
        "spec.ingress[0].fromCIDR[0]",
        "'10.0.0.0/33' is not a CIDR",
        "write an address",
    ),
    (
        entry("fromCIDR: [10.0.0.0/255.0.0.0]"),
        2,
        "spec.ingress[0].fromCIDR[0]",
        "'10.0.0.0/255.0.0.0' is not a CIDR",
        "write an address",
    ),
    (
        entry("fromCIDR: ['fe80::%1/64']"),
        2,
        "spec.ingress[0].fromCIDR[0]",
        "'fe80::%1/64' is not a CIDR",
        "write an address",
    ),
    (
        entry("fromCIDRSet:\n- cidr: 10.0.0.0/8\n  except: [11.0.0.0/16]"),
        4,
        "spec.ingress[0].fromCIDRSet[0].except[0]",
        "11.0.0.0/16 is not inside 10.0.0.0/8",
        "except can only",
    ),
    (
        entry("fromCIDRSet:\n- cidr: 10.0.0.0/8\n  except: [0.0.0.0/0]"),
        4,
        "spec.ingress[0].fromCIDRSet[0].except[0]",
        "0.0.0.0/0 is not inside 10.0.0.0/8",
        "except can only",
    ),
    (
        entry("fromCIDRSet:\n- cidr: 10.0.0.0/8\n  except: ['fd00::/8']"),
        4,
        "spec.ingress[0].fromCIDRSet[0].except[0]",
        "fd00::/8 is IPv6 and 10.0.0.0/8 is IPv4",
        "use one family",
    ),
    (entry("fromCIDRSet: [{except: []}]"), 2, "spec.ingress[0].fromCIDRSet[0]", "the entry has no cidr", "write cidr"),
    (
        entry("toFQDNs: [{matchName: a.example}]", "egressDeny"),
        2,
        "spec.egressDeny[0].toFQDNs",
        "toFQDNs is not possible in a deny rule",
        "deny the addresses",
    ),
    (
        entry("toFQDNs: [{matchName: a.example, matchPattern: '*'}]", "egress"),
        2,
        "spec.egress[0].toFQDNs[0]",
        "exactly one of matchName and matchPattern is needed",
        "write one",
    ),
    (
        entry("toFQDNs: [{matchName: ''}]", "egress"),
        2,
        "spec.egress[0].toFQDNs[0]",
        "exactly one of matchName and matchPattern is needed",
        "write one",
    ),
    (
        entry("toServices: [{k8sService: {serviceName: ''}}]", "egress"),
        2,
        "spec.egress[0].toServices[0].k8sService.serviceName",
        "the service has no name",
        "write the service's name",
    ),
    (
        entry("toFQDNs: [{matchName: '*.example'}]", "egress"),
        2,
        "spec.egress[0].toFQDNs[0].matchName",
        "'*.example' is not a DNS name",
        "write a DNS name; patterns go into matchPattern",
    ),
    (
        entry("toFQDNs: [{matchPattern: 'a b'}]", "egress"),
        2,
        "spec.egress[0].toFQDNs[0].matchPattern",
        "'a b' is not a DNS pattern",
        "use letters",
    ),
    (
        entry("toServices: [{}]", "egress"),
        2,
        "spec.egress[0].toServices[0]",
        "a service entry needs exactly one of k8sService and k8sServiceSelector",
        "write one",
    ),
    (
        entry("toServices: [{k8sService: {namespace: x}}]", "egress"),
        2,
        "spec.egress[0].toServices[0].k8sService",
        "the service has no serviceName",
        "write serviceName",
    ),
    (
        entry("toServices: [{k8sServiceSelector: {}}]", "egress"),
        2,
        "spec.egress[0].toServices[0].k8sServiceSelector",
        "the service selector has no selector",
        "write selector",
    ),
    (
        entry("fromRequires: [{matchLabels: {a: b}}]"),
        2,
        "spec.ingress[0].fromRequires",
        "fromRequires is no longer supported",
        "select the peers",
    ),
]


@each_of(REFUSALS)
def test_a_refusal_has_its_place_and_sentence(row: Row) -> None:
    assert refusal_of(row) == row[1:]
