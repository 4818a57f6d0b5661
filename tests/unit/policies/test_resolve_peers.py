"""Whom the peers of a policy mean: selectors, entities, CIDRs, names, services."""

from __future__ import annotations

import pytest
from lockgate.tests.unit.policies.meaning import ALL, BACK, FRONT, PORT_443, Case, expected, judged, policy

CASES: dict[str, Case] = {
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
    "a foreign namespace of any source in the subject selects nobody": (
        [policy("endpointSelector: {matchLabels: {tier: web, io.kubernetes.pod.namespace: shop}}\ningress: [{}]")],
        "back > front:80\nback > shop/cart:80",
        "",
        "",
    ),
    "a foreign namespace in an expression of the subject selects nobody": (
        [
            policy(
                "endpointSelector:\n  matchExpressions:\n"
                "  - {key: 'k8s:io.kubernetes.pod.namespace', operator: In, values: [shop]}\ningress: [{}]"
            )
        ],
        "back > front:80\nback > shop/cart:80",
        "",
        "",
    ),
    "the own namespace among others in the subject": (
        [
            policy(
                "endpointSelector:\n  matchLabels: {tier: web}\n  matchExpressions:\n"
                "  - {key: 'k8s:io.kubernetes.pod.namespace', operator: In, values: [default, shop]}\ningress: [{}]"
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
    "names of any kind": (
        [policy(FRONT + "egress: [{toFQDNs: [{matchPattern: '**'}]}]")],
        "front > 198.51.100.7:443\nfront > fd99::1:443",
        "front > 192.0.2.1:443",
        "",
    ),
    "an empty list of names or services is nobody": (
        [policy(FRONT + "egress:" + "".join(f"\n- {{{each}: [], {PORT_443}}}" for each in ("toFQDNs", "toServices")))],
        "",
        "front > 198.51.100.7:443\nfront > back:443\nfront > 192.0.2.1:443",
        "",
    ),
    "a service by name is one of any namespace": (
        [policy(FRONT + "egress: [{toServices: [{k8sService: {serviceName: data}}]}]")],
        "front > back:80\nfront > back-2:80\nfront > shop/cart:80",
        "front > bare:80\nfront > 192.0.2.9:80",
        "",
    ),
    "services by label are those of any namespace": (
        [policy(FRONT + "egress: [{toServices: [{k8sServiceSelector: {selector: {matchLabels: {kind: db}}}}]}]")],
        "front > back:80\nfront > shop/cart:80",
        "front > bare:80\nfront > 192.0.2.9:80",
        "",
    ),
    "a service by name and namespace": (
        [
            policy(
                FRONT + "egress: [{toServices: [{k8sService: {serviceName: data, namespace: default}}, "
                "{k8sService: {serviceName: outside}}]}]"
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
}


@pytest.mark.parametrize("name", CASES)
def test_meaning(name: str) -> None:
    assert judged(CASES[name]) == expected(CASES[name])
