"""What policies mean: each case is a set of policies and the verdicts of flows under it."""

from __future__ import annotations

from ipaddress import ip_address
from textwrap import indent
from typing import Any

import pytest
from lockgate.policies.endpoint_policy import HeaderMatch, HttpRule, HttpRules, PortSpan, Protocol
from lockgate.policies.explain import Explanation, explain
from lockgate.policies.flow import Flow
from lockgate.policies.identity import endpoint_of
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.workload_file import parse_workloads
from lockgate.policies.model import Policy, SecretRef
from lockgate.policies.service import Service
from lockgate.policies.workload import Workload
from lockgate.policies.world import World

WORKLOADS = b"""
workloads:
- {name: front, labels: {app: front, tier: web}, ips: [10.1.0.1, "fd01::1"], ports: {http: 8001}}
- {name: back, labels: {app: back, tier: data}, ips: [10.1.0.2, "fd01::2"], ports: {http: 8080}}
- {name: back-2, labels: {app: back, tier: data}, ips: [10.1.0.3], ports: {http: 8081}}
- {name: bare, ips: [10.1.0.4]}
- {name: cart, namespace: shop, labels: {app: cart, tier: web}, ips: [10.1.0.5], ports: {http: 9090}}
- {name: odd, namespace: shop, labels: {app: front, "container:image": x}, ips: [10.1.0.6]}
"""
SERVICES = (
    Service("data", "default", (("kind", "db"),), (("app", "back"),)),
    Service("outside", "default", (), (), (ip_address("192.0.2.9"),)),
    Service("data", "shop", (("kind", "db"),), (("app", "cart"),)),
    Service("nobody", "default"),
)
NAMES = {
    "api.example.com": frozenset({ip_address("198.51.100.7")}),
    "www.example.org": frozenset({ip_address("fd99::1")}),
}
SECRETS = {SecretRef("default", "token"): "s3cret"}


def policy(spec: str, kind: str = "CiliumNetworkPolicy", name: str = "p", namespace: str = "default") -> Policy:
    where = "" if "Clusterwide" in kind else f", namespace: {namespace}"
    version = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "cilium.io/v2"
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}{where}}}\nspec:\n{indent(spec, '  ')}"
    parsed = parse_policies(text.encode(), f"{name}.yaml", refuse={})
    assert not [problem for problem in parsed.problems if problem.is_error], parsed.problems
    return parsed.policies[0]


def world(*policies: Policy, workloads: bytes = WORKLOADS) -> World:
    parsed = parse_workloads(workloads, "w.yaml")
    assert parsed.ok
    return World.of(
        policies,
        [endpoint_of(workload) for workload in parsed.workloads],
        hosts=[ip_address("10.1.0.254")],
        services=SERVICES,
        names=NAMES,
        secrets=SECRETS,
    )


def ask(where: World, flow: str, **request: Any) -> Explanation:
    """`front > back:80/TCP`"""
    ends, _, port = flow.rpartition(":")
    source, _, destination = ends.partition(" > ")
    number, _, protocol = port.partition("/")
    data = {"from": source, "to": destination, "port": int(number), "protocol": protocol or "TCP", **request}
    return explain(where, Flow.from_json(data))


def verdicts(where: World, flows: str) -> dict[str, str]:
    return {flow.strip(): ask(where, flow.strip()).verdict.value for flow in flows.strip().splitlines()}


BACK = "endpointSelector: {matchLabels: {app: back}}\n"
FRONT = "endpointSelector: {matchLabels: {app: front}}\n"
ALL = "endpointSelector: {}\n"

# name: (specs or (spec, kind, namespace) tuples, flows allowed, flows denied, flows redirected)
CASES: dict[str, tuple[list[Policy], str, str, str]] = {
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
    "peers without ports mean every port and protocol": (
        [policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {app: front}}]}]")],
        "front > back:80\nfront > back:1/UDP\nfront > back:8/ICMP",
        "bare > back:80",
        "",
    ),
    "peers inherit the policy's namespace": (
        [policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {tier: web}}]}]")],
        "front > back:80",
        "shop/cart > back:80",
        "",
    ),
    "an empty peer selector is the namespace": (
        [policy(BACK + "ingress: [{fromEndpoints: [{}]}]")],
        "front > back:80\nbare > back:80",
        "shop/cart > back:80\n192.0.2.1 > back:80\nreserved:world > back:80",
        "",
    ),
    "a peer may name another namespace": (
        [policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {'k8s:io.kubernetes.pod.namespace': shop}}]}]")],
        "shop/cart > back:80\nshop/odd > back:80",
        "front > back:80",
        "",
    ),
    "a peer may name all namespaces": (
        [
            policy(
                BACK + "ingress:\n- fromEndpoints:\n  - matchExpressions:\n"
                "    - {key: io.kubernetes.pod.namespace, operator: Exists}\n"
                "    - {key: tier, operator: In, values: [web]}"
            )
        ],
        "front > back:80\nshop/cart > back:80",
        "bare > back:80\n192.0.2.1 > back:80",
        "",
    ),
    "a peer may name a namespace by its labels": (
        [
            policy(
                BACK + "ingress: [{fromEndpoints: [{matchLabels: "
                "{'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': shop}}]}]"
            )
        ],
        "shop/cart > back:80",
        "front > back:80",
        "",
    ),
    "a reserved peer inherits nothing": (
        [policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {'reserved:remote-node': ''}}]}]")],
        "reserved:remote-node > back:80\nreserved:kube-apiserver > back:80",
        "front > back:80\nreserved:world > back:80",
        "",
    ),
    "another cluster is nobody here": (
        [policy(BACK + "ingress: [{fromEndpoints: [{matchLabels: {'io.cilium.k8s.policy.cluster': far}}]}]")],
        "",
        "front > back:80",
        "",
    ),
    "the subject is always of the policy's namespace": (
        [policy("endpointSelector: {matchLabels: {tier: web}}\ningress: [{}]")],
        "front > shop/cart:80",
        "back > front:80",
        "",
    ),
    "a foreign namespace in the subject is replaced": (
        [
            policy(
                "endpointSelector: {matchLabels: {tier: web, 'k8s:io.kubernetes.pod.namespace': shop}}\ningress: [{}]"
            )
        ],
        "front > shop/cart:80",
        "back > front:80",
        "",
    ),
    "a key without source matches every source": (
        [policy(ALL + "ingress: [{fromEndpoints: [{matchLabels: {image: x}}]}]", namespace="shop")],
        "shop/odd > shop/cart:80",
        "shop/cart > shop/odd:80",
        "",
    ),
    "a key with a source matches that source only": (
        [policy(ALL + "ingress: [{fromEndpoints: [{matchLabels: {'k8s:image': x}}]}]", namespace="shop")],
        "",
        "shop/odd > shop/cart:80",
        "",
    ),
    "NotIn and DoesNotExist hold for an absent key": (
        [
            policy(
                BACK
                + "ingress:\n- fromEndpoints:\n  - matchExpressions: [{key: app, operator: NotIn, values: [front]}]\n"
                "  toPorts: [{ports: [{port: '1'}]}]\n"
                "- fromEndpoints:\n  - matchExpressions: [{key: app, operator: DoesNotExist}]\n"
                "  toPorts: [{ports: [{port: '2'}]}]"
            )
        ],
        "bare > back:1\nbare > back:2\nback-2 > back:1",
        "front > back:1\nfront > back:2\nback-2 > back:2",
        "",
    ),
    "entity world": (
        [policy(BACK + "ingress: [{fromEntities: [world]}]")],
        "192.0.2.1 > back:80\n2001:db8::1 > back:80\nreserved:world > back:80\nreserved:world-ipv6 > back:80",
        "front > back:80\nreserved:remote-node > back:80",
        "",
    ),
    "entity world of one family": (
        [policy(BACK + "ingress: [{fromEntities: [world-ipv6]}]")],
        "2001:db8::1 > back:80",
        "192.0.2.1 > back:80\nreserved:world > back:80",
        "",
    ),
    "entity cluster": (
        [policy(BACK + "ingress: [{fromEntities: [cluster]}]")],
        "front > back:80\nshop/cart > back:80\nreserved:remote-node > back:80\nreserved:health > back:80"
        "\nreserved:init > back:80\nreserved:unmanaged > back:80\nreserved:kube-apiserver > back:80"
        "\nreserved:ingress > back:80",
        "192.0.2.1 > back:80\nreserved:world > back:80",
        "",
    ),
    "entity cluster-mesh": (
        [policy(BACK + "ingress: [{fromEntities: [cluster-mesh]}]")],
        "front > back:80\nreserved:remote-node > back:80",
        "192.0.2.1 > back:80",
        "",
    ),
    "entity all": (
        [policy(BACK + "ingress: [{fromEntities: [all]}]")],
        "front > back:80\n192.0.2.1 > back:80\nreserved:remote-node > back:80",
        "",
        "",
    ),
    "entity none": (
        [policy(BACK + "ingress: [{fromEntities: [none]}]")],
        "",
        "front > back:80\n192.0.2.1 > back:80",
        "",
    ),
    "entity host in egress": (
        [policy(FRONT + "egress: [{toEntities: [host]}]")],
        "front > 10.1.0.254:80\nfront > reserved:host:80",
        "front > back:80\nfront > reserved:remote-node:80",
        "",
    ),
    "CIDRs match what is no endpoint": (
        [policy(BACK + "ingress: [{fromCIDR: [10.0.0.0/8, 'fd00::/8']}]")],
        "10.9.9.9 > back:80\nfd07::1 > back:80\n10.1.0.254 > back:80",
        "front > back:80\n10.1.0.1 > back:80\nfd01::1 > back:80\n11.0.0.1 > back:80\n2001:db8::1 > back:80",
        "",
    ),
    "the host is no part of a CIDR in egress": (
        [policy(FRONT + "egress: [{toCIDR: [10.0.0.0/8]}]")],
        "front > 10.9.9.9:80",
        "front > 10.1.0.254:80\nfront > back:80",
        "",
    ),
    "a CIDR set with exceptions": (
        [policy(BACK + "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.2.0.0/16, 10.3.3.3/32]}]}]")],
        "10.9.9.9 > back:80\n10.3.3.4 > back:80",
        "10.2.0.1 > back:80\n10.3.3.3 > back:80\n11.0.0.1 > back:80",
        "",
    ),
    "a CIDR inside another policy's CIDR stays inside": (
        [
            policy(BACK + "ingress: [{fromCIDR: [10.0.0.0/8]}]"),
            policy(FRONT + "ingress: [{fromCIDR: [10.2.0.0/16]}]", name="q"),
        ],
        "10.2.0.1 > back:80\n10.9.0.1 > back:80\n10.2.0.1 > front:80",
        "10.9.0.1 > front:80",
        "",
    ),
    "the CIDR of a whole family": (
        [
            policy(BACK + "ingress: [{fromCIDR: [0.0.0.0/0]}]"),
            policy(FRONT + "ingress: [{fromCIDR: [192.0.2.0/24]}]", name="q"),
        ],
        "192.0.2.1 > back:80\n8.8.8.8 > back:80\nreserved:world > back:80",
        "2001:db8::1 > back:80\nfront > back:80\n8.8.8.8 > front:80",
        "",
    ),
    "bits beyond the prefix are dropped": (
        [policy(BACK + "ingress: [{fromCIDR: [192.0.2.77/24]}]")],
        "192.0.2.1 > back:80",
        "192.0.3.77 > back:80",
        "",
    ),
    "names learned from DNS": (
        [policy(FRONT + "egress: [{toFQDNs: [{matchPattern: '*.example.com'}], toPorts: [{ports: [{port: '443'}]}]}]")],
        "front > 198.51.100.7:443",
        "front > 198.51.100.7:80\nfront > 198.51.100.8:443\nfront > fd99::1:443",
        "",
    ),
    "a service by name": (
        [
            policy(
                FRONT
                + "egress: [{toServices: [{k8sService: {serviceName: data}}, {k8sService: {serviceName: outside}}]}]"
            )
        ],
        "front > back:80\nfront > back-2:80\nfront > 192.0.2.9:80",
        "front > shop/cart:80\nfront > bare:80\nfront > 192.0.2.8:80",
        "",
    ),
    "services by label in another namespace": (
        [
            policy(
                FRONT + "egress:\n- toServices:\n"
                "  - k8sServiceSelector: {namespace: shop, selector: {matchLabels: {kind: db}}}"
            )
        ],
        "front > shop/cart:80",
        "front > back:80\nfront > shop/odd:80",
        "",
    ),
    "a service without endpoints": (
        [policy(FRONT + "egress: [{toServices: [{k8sService: {serviceName: nobody}}]}]")],
        "",
        "front > back:80",
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
        [policy("podSelector: {}\negress: []", "NetworkPolicy")],
        "",
        "front > 192.0.2.1:80\n192.0.2.1 > front:80",
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
    policies, allowed, denied, redirected = CASES[name]
    where = world(*policies)
    for flows, verdict in ((allowed, "allow"), (denied, "deny"), (redirected, "redirect")):
        found = verdicts(where, flows)
        assert found == dict.fromkeys(found, verdict)


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
