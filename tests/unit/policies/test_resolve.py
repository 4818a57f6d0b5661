"""What policies mean: each case is a set of them and the verdicts of flows under it. Peers have a file of their own."""

from __future__ import annotations

import pytest
from lockgate.policies.endpoint_policy import HeaderMatch, HttpRule, HttpRules, PortSpan, Protocol
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Workload
from lockgate.tests.unit.policies.meaning import ALL, BACK, FRONT, Case, ask, expected, judged, policy, world

CASES: dict[str, Case] = {
    "no policy allows all": ([], "front > back:80\n192.0.2.1 > back:80\nback > 192.0.2.1:80/UDP", "", ""),
    "an empty rule denies by default and selects nobody": (
        [policy(BACK + "ingress: [{}]")],
        "reserved:host > back:80\n10.1.0.254 > back:80\nfront > cart:80\nback > front:80",
        "front > back:80\nback > back-2:80\n192.0.2.1 > back:80/UDP",
        "",
    ),
    "an empty egress rule": (
        [policy(FRONT + "egress: [{}]")],
        "back > front:80\nback > back-2:80",
        "front > back:80",
        "",
    ),
    "absent peers with ports mean anyone": (
        [policy(BACK + 'ingress: [{toPorts: [{ports: [{port: "80"}]}]}]')],
        "front > back:80\nfront > back:80/UDP\nfront > back:80/SCTP\n192.0.2.1 > back:80\nshop/cart > back:80",
        "front > back:81\nfront > back:80/ICMP",
        "",
    ),
    "an empty list of peers means nobody": (
        [policy(BACK + 'ingress: [{fromEndpoints: [], toPorts: [{ports: [{port: "80"}]}]}]')],
        "",
        "front > back:80\n192.0.2.1 > back:80",
        "",
    ),
    "an empty list beside a filled one still means nobody": (
        [policy(BACK + "ingress: [{fromEndpoints: [], fromEntities: [all]}]")],
        "",
        "front > back:80\n192.0.2.1 > back:80",
        "",
    ),
    "a port range": (
        [policy(BACK + 'ingress: [{toPorts: [{ports: [{port: "80", endPort: 90, protocol: TCP}]}]}]')],
        "front > back:80\nfront > back:90\nfront > back:85",
        "front > back:79\nfront > back:91\nfront > back:85/UDP",
        "",
    ),
    "endPort equal to port": (
        [policy(BACK + 'ingress: [{toPorts: [{ports: [{port: "80", endPort: 80}]}]}]')],
        "front > back:80",
        "front > back:81",
        "",
    ),
    "port 0 is every port of the protocol": (
        [policy(BACK + 'ingress: [{toPorts: [{ports: [{port: "0", protocol: UDP}]}]}]')],
        "front > back:1/UDP\nfront > back:65535/UDP",
        "front > back:1",
        "",
    ),
    "a named port of the server, ingress": (
        [policy(BACK + "ingress: [{toPorts: [{ports: [{port: HTTP, protocol: TCP}]}]}]")],
        "front > back:8080\nfront > back-2:8081",
        "front > back:8081\nfront > back-2:8080\nfront > back:8080/UDP",
        "",
    ),
    "a named port of the peers, egress": (
        [policy(FRONT + "egress: [{toEndpoints: [{matchLabels: {app: back}}], toPorts: [{ports: [{port: http}]}]}]")],
        "front > back:8080\nfront > back-2:8081",
        "front > back:9090\nfront > shop/cart:9090",
        "",
    ),
    "a named port of anyone, egress": (
        [policy(FRONT + "egress: [{toPorts: [{ports: [{port: http}, {port: '53', protocol: UDP}]}]}]")],
        "front > back:8080\nfront > shop/cart:9090\nfront > 192.0.2.1:53/UDP",
        "front > shop/cart:8080\nfront > 192.0.2.1:8080\nfront > 192.0.2.1:53",
        "",
    ),
    "an unknown named port is no port": (
        [
            policy(
                BACK + "ingress: [{toPorts: [{ports: [{port: nope}]}]}]\negress: [{toPorts: [{ports: [{port: nope}]}]}]"
            )
        ],
        "",
        "front > back:80\nback > front:80",
        "",
    ),
    "icmps": (
        [policy(BACK + "ingress: [{icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}]}]}]")],
        "front > back:8/ICMP\nfront > back:128/ICMPv6",
        "front > back:0/ICMP\nfront > back:8/ICMPv6\nfront > back:8",
        "",
    ),
    "a deny beats every allow": (
        [
            policy(BACK + "ingress: [{fromEntities: [all]}]"),
            policy(
                BACK + "ingressDeny:\n- fromEndpoints: [{matchLabels: {app: front}}]\n"
                '  toPorts: [{ports: [{port: "80", protocol: TCP}]}]\n- fromCIDR: [192.0.2.0/24]',
                name="q",
            ),
        ],
        "front > back:81\nbare > back:80\n198.51.100.1 > back:80",
        "front > back:80\n192.0.2.1 > back:81",
        "",
    ),
    "a deny beats the local host too": (
        [policy(BACK + "ingressDeny: [{fromEntities: [host], toPorts: [{ports: [{port: '22'}]}]}]\ningress: [{}]")],
        "reserved:host > back:80",
        "reserved:host > back:22",
        "",
    ),
    "a deny section alone denies by default": (
        [policy(BACK + "ingressDeny: [{fromEndpoints: [{matchLabels: {app: front}}]}]")],
        "",
        "front > back:80\nbare > back:80",
        "",
    ),
    "a deny without default deny": (
        [
            policy(
                BACK
                + "enableDefaultDeny: {ingress: false}\ningressDeny: [{fromEndpoints: [{matchLabels: {app: front}}]}]"
            )
        ],
        "bare > back:80\n192.0.2.1 > back:1/UDP",
        "front > back:80",
        "",
    ),
    "without default deny all is allowed": (
        [
            policy(
                BACK + "enableDefaultDeny: {ingress: false}\ningress: [{fromEndpoints: [{matchLabels: {app: front}}]}]"
            )
        ],
        "front > back:80\nbare > back:80\nreserved:host > back:80",
        "",
        "",
    ),
    "one policy with default deny is enough": (
        [
            policy(
                BACK + "enableDefaultDeny: {ingress: false}\ningress: [{fromEndpoints: [{matchLabels: {app: front}}]}]"
            ),
            policy(BACK + "ingress: [{}]", name="q"),
        ],
        "front > back:80",
        "bare > back:80",
        "",
    ),
    "each direction on its own": (
        [
            policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]"),
            policy(FRONT + "egress: [{toEndpoints: [{matchLabels: {app: bare}}]}]", name="q"),
        ],
        "bare > front:80",
        "front > back:80\nfront > bare:80\nbare > back:80",
        "",
    ),
    "a clusterwide policy selects in every namespace": (
        [policy("endpointSelector: {matchLabels: {tier: web}}\ningress: [{}]", "CiliumClusterwideNetworkPolicy")],
        "front > back:80",
        "back > front:80\nback > shop/cart:80",
        "",
    ),
    "a clusterwide empty peer is every workload": (
        [policy(BACK + "ingress: [{fromEndpoints: [{}]}]", "CiliumClusterwideNetworkPolicy")],
        "front > back:80\nshop/cart > back:80\nbare > back:80",
        "192.0.2.1 > back:80\nreserved:world > back:80\nreserved:remote-node > back:80",
        "",
    ),
    "a clusterwide peer outside of a namespace is a workload": (
        [
            policy(
                BACK + "ingress:\n- fromEndpoints:\n  - matchExpressions:\n"
                "    - {key: 'k8s:io.kubernetes.pod.namespace', operator: NotIn, values: [shop]}",
                "CiliumClusterwideNetworkPolicy",
            )
        ],
        "front > back:80\nbare > back:80",
        "shop/cart > back:80\n192.0.2.1 > back:80\nreserved:world > back:80\nreserved:remote-node > back:80",
        "",
    ),
    "a clusterwide peer without a namespace is nobody": (
        [
            policy(
                BACK + "ingress:\n- fromEndpoints:\n  - matchExpressions:\n"
                "    - {key: io.kubernetes.pod.namespace, operator: DoesNotExist}",
                "CiliumClusterwideNetworkPolicy",
            )
        ],
        "",
        "front > back:80\n192.0.2.1 > back:80\nreserved:world > back:80\nreserved:remote-node > back:80",
        "",
    ),
    "a clusterwide peer without a key is still a workload": (
        [
            policy(
                BACK + "ingress: [{fromEndpoints: [{matchExpressions: [{key: app, operator: DoesNotExist}]}]}]",
                "CiliumClusterwideNetworkPolicy",
            )
        ],
        "bare > back:80",
        "192.0.2.1 > back:80\nfront > back:80",
        "",
    ),
    "request rules redirect": (
        [
            policy(
                BACK + "ingress:\n- fromEndpoints: [{matchLabels: {app: front}}]\n"
                '  toPorts: [{ports: [{port: "80", endPort: 82, protocol: TCP}], rules: {http: [{}]}}]'
            )
        ],
        "reserved:host > back:80",
        "bare > back:80\nfront > back:83\nfront > back:80/UDP",
        "front > back:80\nfront > back:82",
    ),
    "an empty list of request rules is none": (
        [policy(BACK + 'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: []}}]}]')],
        "front > back:80",
        "",
        "",
    ),
    "a plain rule for a peer opens its requests": (
        [
            policy(
                BACK + 'ingress:\n- toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /x}]}}]\n'
                "- fromEndpoints: [{matchLabels: {app: front}}]"
            )
        ],
        "front > back:80",
        "",
        "bare > back:80\n192.0.2.1 > back:80",
    ),
    "request rules without default deny": (
        [
            policy(
                BACK + "enableDefaultDeny: {ingress: false}\n"
                'ingress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /x}]}}]}]'
            )
        ],
        "front > back:80\nfront > back:81",
        "",
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str) -> None:
    assert judged(CASES[name]) == expected(CASES[name])


def test_any_becomes_three_protocols_and_origins_name_the_entry() -> None:
    where = world(policy(BACK + 'ingress:\n- toPorts:\n  - ports: [{port: "80"}, {port: "80", protocol: TCP}]'))
    endpoint = where.endpoint("default/back")
    assert endpoint is not None
    rule = where.policy_of(endpoint).ingress.rules[0]
    assert rule.ports == tuple(PortSpan(protocol, 80, 80) for protocol in (Protocol.TCP, Protocol.UDP, Protocol.SCTP))
    assert rule.peers is None
    assert str(rule.origin) == "default/p:spec.ingress[0].toPorts[0]"
    assert (rule.origin.source, rule.origin.line) == ("p.yaml", 8)


def test_headers_keep_their_meaning_and_secrets_their_values() -> None:
    http = (
        "{headers: ['X-Key: v', 'X-There', 'X:y'], headerMatches: [{name: Token, secret: {name: token}}, "
        "{name: Other, secret: {name: missing}, mismatch: REPLACE}]}, "
        "{headerMatches: [{name: Token, secret: {name: token}}]}"
    )
    where = world(
        policy(
            BACK + f'ingress: [{{toPorts: [{{ports: [{{port: "80", protocol: TCP}}], rules: {{http: [{http}]}}}}]}}]'
        )
    )
    endpoint = where.endpoint("default/back")
    assert endpoint is not None
    l7 = where.policy_of(endpoint).ingress.rules[0].l7
    token = HeaderMatch("token", "s3cret", secret=True)
    assert isinstance(l7, HttpRules)
    assert l7.http[1] == HttpRule(headers=(token,))
    found = ask(where, "front > back:80", http={"headers": {"token": "guess"}})
    assert found.verdict == "deny"
    assert "s3cret" not in str(found.to_json())
    assert "header token is not the value of its secret" in str(found.to_json())
    assert ask(where, "front > back:80", http={"headers": {"Token": "s3cret"}}).verdict == "allow"


def test_a_missing_secret_never_widens_the_rule() -> None:
    http = "{headerMatches: [{name: Token, secret: {name: missing}}]}"
    where = world(
        policy(
            BACK + f'ingress: [{{toPorts: [{{ports: [{{port: "80", protocol: TCP}}], rules: {{http: [{http}]}}}}]}}]'
        )
    )
    for method in ("GET", "", "ANY THING"):
        assert ask(where, "front > back:80", http={"method": method}).verdict == "deny"


def test_a_workload_cannot_claim_another_namespace() -> None:
    liar = b"""
workloads:
- {name: liar, labels: {"k8s:io.kubernetes.pod.namespace": shop, "any:x": y}, ips: [10.2.0.1]}
- {name: cart, namespace: shop, labels: {app: cart}, ips: [10.1.0.5]}
"""
    where = world(policy(ALL + "ingress: [{fromEndpoints: [{}]}]", namespace="shop"), workloads=liar)
    assert ask(where, "liar > shop/cart:80").verdict == "deny"


def test_an_endpoint_without_policy_shares_the_open_one() -> None:
    where = world()
    workload = Workload("stranger", "default", ())
    assert where.policy_of(endpoint_of(workload)).ingress.default_deny is False
