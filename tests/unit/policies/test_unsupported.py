"""What nothing enforces yet is refused, with its sentence, and nothing else is."""

from __future__ import annotations

import pytest
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.unsupported import UNSUPPORTED, Feature

TCP = 'ports: [{port: "80", protocol: TCP}]'
USES: dict[Feature, tuple[str, str]] = {
    Feature.SERVER_NAMES: (
        f"egress: [{{toPorts: [{{{TCP}, serverNames: [a.b]}}]}}]",
        "egress[0].toPorts[0].serverNames",
    ),
    Feature.TLS_CONTEXT: (
        f"egress: [{{toPorts: [{{{TCP}, originatingTLS: {{secret: {{name: a}}}}}}]}}]",
        "egress[0].toPorts[0].originatingTLS",
    ),
    Feature.KAFKA_RULES: (
        f"ingress: [{{toPorts: [{{{TCP}, rules: {{kafka: [{{}}]}}}}]}}]",
        "ingress[0].toPorts[0].rules.kafka",
    ),
    Feature.GRPC_RULES: (
        f"ingress: [{{toPorts: [{{{TCP}, rules: {{grpc: [{{service: a.B}}]}}}}]}}]",
        "ingress[0].toPorts[0].rules.grpc",
    ),
    Feature.LISTENER: (f"egress: [{{toPorts: [{{{TCP}, listener: {{name: x}}}}]}}]", "egress[0].toPorts[0].listener"),
    Feature.AUTHENTICATION: (
        "ingress: [{fromEntities: [all], authentication: {mode: required}}]",
        "ingress[0].authentication",
    ),
    Feature.NODES: ("ingress: [{fromNodes: [{}]}]", "ingress[0].fromNodes"),
    Feature.GROUPS: ("ingress: [{fromGroups: [{}]}]", "ingress[0].fromGroups"),
    Feature.CIDR_GROUPS: ("ingress: [{fromCIDRSet: [{cidrGroupRef: a}]}]", "ingress[0].fromCIDRSet[0].cidrGroupRef"),
    Feature.PROXYLIB: (
        f"ingress: [{{toPorts: [{{{TCP}, rules: {{l7proto: x}}}}]}}]",
        "ingress[0].toPorts[0].rules.l7proto",
    ),
}


def document(feature: Feature) -> bytes:
    head = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: p}\nspec:\n  endpointSelector: {}\n"
    return f"{head}  {USES[feature][0]}\n".encode()


@pytest.mark.parametrize("feature", list(UNSUPPORTED), ids=lambda feature: feature.name)
def test_an_unsupported_feature_is_refused_where_it_stands(feature: Feature) -> None:
    parsed = parse_policies(document(feature), "p.yaml")
    (problem,) = parsed.problems
    assert problem.message == UNSUPPORTED[feature]
    assert problem.path == f"spec.{USES[feature][1]}"
    assert parsed.policies == ()


@pytest.mark.parametrize("feature", list(Feature), ids=lambda feature: feature.name)
def test_taking_the_entry_out_accepts_the_feature(feature: Feature) -> None:
    without = {other: sentence for other, sentence in UNSUPPORTED.items() if other is not feature}
    parsed = parse_policies(document(feature), "p.yaml", refuse=without)
    assert parsed.problems == ()
    assert len(parsed.policies) == 1


def test_the_harmless_forms_pass() -> None:
    text = f"""\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: p}}
spec:
  endpointSelector: {{}}
  ingress:
  - fromEntities: [all]
    authentication: {{mode: disabled}}
    toPorts:
    - {TCP}
      serverNames: []
      rules: {{http: [{{headerMatches: [{{name: a, value: b, mismatch: ""}}]}}], kafka: [], dns: []}}
"""
    assert parse_policies(text.encode(), "p.yaml").problems == ()
