"""What is allowed and most likely not meant."""

from __future__ import annotations

from lockgate.tests.unit.policies.refusals import (
    HTTP,
    SELECTOR,
    H,
    Row,
    each_of,
    entry,
    warning_of,
)

NOTHING = "there is nothing under '{}', so it counts as absent and narrows nothing"
WARNINGS: list[Row] = [
    (
        entry("fromEndpoints:\ntoPorts: [{ports: [{port: '80'}]}]"),
        2,
        "spec.ingress[0].fromEndpoints",
        NOTHING.format("fromEndpoints"),
        "write",
    ),
    (
        entry("fromCIDRSet: [{cidr: 10.0.0.0/8, except: }]"),
        2,
        "spec.ingress[0].fromCIDRSet[0].except",
        NOTHING.format("except"),
        "write",
    ),
    (entry("fromEntities: [world]\ntoPorts:"), 3, "spec.ingress[0].toPorts", NOTHING.format("toPorts"), "write"),
    (entry(HTTP + "    # - path: /users"), 5, "spec.ingress[0].toPorts[0].rules.http", NOTHING.format("http"), "write"),
    (entry(HTTP + "    - path: "), 6, f"{H}.path", NOTHING.format("path"), "write"),
    (
        entry(HTTP + "    - headerMatches: [{name: a, mismatch: DELETE}]"),
        6,
        f"{H}.headerMatches[0].mismatch",
        "DELETE without a value deletes nothing",
        "write the value that the header may keep",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: a, value: 'b '}]"),
        6,
        f"{H}.headerMatches[0].value",
        "the value has a blank at one end, which no request's header has",
        "remove the blank",
    ),
    (
        entry(HTTP + "    - headers: ['X-Key:true']"),
        6,
        f"{H}.headers[0]",
        "'X-Key:true' asks for a header with exactly that name, which no request has",
        "write 'X-Key: true' with a blank after the colon",
    ),
    (
        entry(HTTP + "    - headers: ['X-Key:  true']"),
        6,
        f"{H}.headers[0]",
        "'X-Key:  true' asks for a value with blanks around it, which no request has",
        "write 'X-Key: true'",
    ),
    (
        entry(HTTP + "    - headers: ['X(Key): true']"),
        6,
        f"{H}.headers[0]",
        "no request has a header called 'X(Key)'",
        "use letters, digits and '-'",
    ),
    (
        entry("fromCIDR: ['::ffff:10.0.0.0/104']", "ingressDeny"),
        2,
        "spec.ingressDeny[0].fromCIDR[0]",
        "::ffff:10.0.0.0/104 is IPv6, and no packet has such an address",
        "write 10.0.0.0/8",
    ),
    (
        entry(HTTP + "    - path: /api/"),
        6,
        f"{H}.path",
        "matches the path '/api/' only, nothing below it",
        "write /api/.* for everything below",
    ),
    (entry(HTTP + "    - path: api"), 6, f"{H}.path", "'api' matches no request: a path starts with '/'", "write /api"),
    (
        entry(HTTP + "    - host: api.example.com"),
        6,
        f"{H}.host",
        "an unescaped '.' matches any character",
        r"write api\.example\.com",
    ),
    (
        "endpointSelector: {matchLabels: {k8s:io.kubernetes.pod.namespace: other}}\ningress: [{}]",
        0,
        "spec.endpointSelector",
        "the policy selects endpoints of its own namespace 'default', not endpoints of 'other'",
        "remove the namespace",
    ),
    (
        "endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\ningress: [{}]",
        0,
        "spec.endpointSelector",
        "the policy selects nobody, not endpoints of 'other'",
        "remove the namespace",
    ),
    (
        "endpointSelector: {matchExpressions: "
        "[{key: k8s:io.kubernetes.pod.namespace, operator: In, values: [one, other]}]}\ningress: [{}]",
        0,
        "spec.endpointSelector",
        "the policy selects nobody, not endpoints of 'one, other'",
        "remove the namespace",
    ),
    (
        "endpointSelector: {matchLabels: {reserved.init: ''}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels[reserved.init]",
        "'reserved.init' is a label of that very name",
        "write 'reserved:init' for one of the source reserved",
    ),
    (
        SELECTOR + "egress:\n- toEndpoints: [{matchLabels: {k8s.io.kubernetes.pod.namespace: dns}}]",
        2,
        "spec.egress[0].toEndpoints[0].matchLabels[k8s.io.kubernetes.pod.namespace]",
        "'k8s.io.kubernetes.pod.namespace' is a label of that very name",
        "write 'k8s:io.kubernetes.pod.namespace'",
    ),
    (
        SELECTOR + "ingress: [{}]\nenableDefaultDeny: {egress: true}",
        2,
        "spec.enableDefaultDeny.egress",
        "has no effect: the rule has no egress section",
        "add egress: [{}]",
    ),
]


@each_of(WARNINGS)
def test_a_warning_leaves_the_policy_usable(row: Row) -> None:
    assert warning_of(row) == row[1:]
