"""What a NetworkPolicy of Kubernetes means."""

from __future__ import annotations

import pytest
from lockgate.tests.unit.policies.meaning import BACK, Case, expected, judged, policy

CASES: dict[str, Case] = {
    "a NetworkPolicy": (
        [
            policy(
                "podSelector: {matchLabels: {app: back}}\n"
                "ingress:\n- from:\n  - podSelector: {matchLabels: {app: front}}\n"
                "  - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}\n"
                "  - ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}\n  ports: [{port: 80}, {port: http}]",
                "NetworkPolicy",
            )
        ],
        "front > back:80\nfront > back:8080\nshop/cart > back:80\n192.0.2.1 > back:80\nback > front:80",
        "bare > back:80\nfront > back:81\nfront > back:80/UDP\n192.0.2.200 > back:80",
        "",
    ),
    "a NetworkPolicy's empty rule allows all": (
        [policy("podSelector: {}\ningress: [{}]", "NetworkPolicy")],
        "front > back:80\n192.0.2.1 > back:1/UDP",
        "",
        "",
    ),
    "a NetworkPolicy without rules denies": (
        [policy("podSelector: {}\npolicyTypes: [Ingress, Egress]", "NetworkPolicy")],
        "reserved:host > back:80",
        "front > back:80\nback > 192.0.2.1:80",
        "",
    ),
    "a NetworkPolicy for egress alone": (
        [policy("podSelector: {}\npolicyTypes: [Egress]\negress: [{to: [{podSelector: {}}]}]", "NetworkPolicy")],
        "front > back:80\n192.0.2.1 > back:80",
        "front > shop/cart:80\nfront > 192.0.2.1:80",
        "",
    ),
    "a NetworkPolicy implies egress by its section": (
        [policy("podSelector: {}\negress:\n- ports: [{port: 443}]", "NetworkPolicy")],
        "front > 192.0.2.1:443",
        "front > 192.0.2.1:80\n192.0.2.1 > front:80",
        "",
    ),
    "an empty egress section implies nothing": (
        [policy("podSelector: {}\negress: []", "NetworkPolicy")],
        "front > 192.0.2.1:80",
        "192.0.2.1 > front:80",
        "",
    ),
    "pods in namespaces by label": (
        [
            policy(
                "podSelector: {}\ningress:\n"
                "- from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: front}}}]",
                "NetworkPolicy",
            )
        ],
        "front > back:80\nshop/odd > back:80",
        "shop/cart > back:80\n192.0.2.1 > back:80",
        "",
    ),
    "NetworkPolicy and CiliumNetworkPolicy add up": (
        [
            policy("podSelector: {}\ningress: [{ports: [{port: 80, endPort: 81}]}]", "NetworkPolicy"),
            policy(BACK + "ingress: [{fromEntities: [world]}]"),
        ],
        "front > back:81\n192.0.2.1 > back:99",
        "front > back:99\n192.0.2.1 > front:99",
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str) -> None:
    assert judged(CASES[name]) == expected(CASES[name])
