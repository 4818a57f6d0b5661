"""Every refusal of the language: what was written, where the problem is, and the sentence it gets."""

from __future__ import annotations

from textwrap import indent

import pytest
from lockgate.policies.language.parse import parse_policies
from lockgate.policies.language.problem import Severity

HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: p
spec:
"""
CLUSTERWIDE = HEAD.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy")
FIRST = HEAD.count("\n") + 1  # the line on which a spec begins
SELECTOR = "endpointSelector: {}\n"


def spec(text: str, head: str = HEAD) -> bytes:
    return (head + indent(text, "  ")).encode()


def entry(text: str, section: str = "ingress") -> str:
    """A spec with one entry, which begins on the spec's line 2."""
    lines = text.strip().splitlines()
    return f"{SELECTOR}{section}:\n- " + "\n  ".join(lines) + "\n"


HTTP = 'toPorts:\n- ports: [{port: "80", protocol: TCP}]\n  rules:\n    http:\n'
P = "spec.ingress[0].toPorts[0]"
H = f"{P}.rules.http[0]"

# (spec, line within the spec from 0, path, message, start of the hint)
REFUSALS: list[tuple[str, int, str, str, str]] = [
    # the rule as a whole
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
    # selectors
    (
        "endpointSelector: {matchLabels: {app: true}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "text expected, not the boolean true",
        'quote it: "true"',
    ),
    (
        "endpointSelector: {matchLabels: {app: }}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "text expected, not nothing",
        'write ""',
    ),
    (
        "endpointSelector: {matchLabels: {a b: x}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels[a b]",
        "'a b' is not a label key",
        "write name",
    ),
    (
        "endpointSelector: {matchLabels: {app: -x}}\ningress: [{}]",
        0,
        "spec.endpointSelector.matchLabels.app",
        "'-x' is not a label value",
        "use at most 63",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: in, values: [x]}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0].operator",
        "unknown operator 'in'",
        "did you mean 'In'?",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: In}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "In needs values",
        "list at least one value",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {key: app, operator: Exists, values: [x]}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "Exists takes no values",
        "remove values",
    ),
    (
        "endpointSelector:\n  matchExpressions:\n  - {operator: Exists}\ningress: [{}]",
        2,
        "spec.endpointSelector.matchExpressions[0]",
        "the expression has no key",
        "write key",
    ),
    ("endpointSelector: {app: x}\ningress: [{}]", 0, "spec.endpointSelector.app", "unknown field 'app'", "use one of"),
    # peers
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
    # ports
    (
        entry('toPorts:\n- ports: [{port: "80"}]\nicmps: [{fields: [{type: 8}]}]'),
        2,
        "spec.ingress[0]",
        "toPorts and icmps in one entry",
        "write one entry",
    ),
    (
        entry("toPorts:\n- ports:\n" + '  - {port: "80"}\n' * 41),
        3,
        f"{P}.ports",
        "41 ports in one entry, at most 40 are allowed",
        "write another",
    ),
    (entry("toPorts: [{}]"), 2, P, "the entry names no port", 'write - port: "0" for every port'),
    (entry("toPorts: [{ports: [{protocol: TCP}]}]"), 2, f"{P}.ports[0]", "the entry has no port", 'write port: "80"'),
    (
        entry("toPorts: [{ports: [{port: 80}]}]"),
        2,
        f"{P}.ports[0].port",
        "text expected, not the number 80",
        'quote it: "80"',
    ),
    (
        entry('toPorts: [{ports: [{port: "65536"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port 65536 is out of range",
        "write a number from 0 to 65535",
    ),
    (
        entry('toPorts: [{ports: [{port: "' + "9" * 100 + '"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port " + "9" * 80 + "... is out of range",
        "write a number",
    ),
    (
        entry('toPorts: [{ports: [{port: "080"}]}]'),
        2,
        f"{P}.ports[0].port",
        "port 080 starts with a zero",
        'write "80"',
    ),
    (
        entry('toPorts: [{ports: [{port: "-1"}]}]'),
        2,
        f"{P}.ports[0].port",
        "'-1' is neither a port number nor a port name",
        "a name has",
    ),
    (
        entry('toPorts: [{ports: [{port: "a-name-that-is-too-long"}]}]'),
        2,
        f"{P}.ports[0].port",
        "'a-name-that-is-too-long' is neither a port number nor a port name",
        "a name has",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: 80}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "endPort 80 is below port 90",
        "write the smaller",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: 70000}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "70000 is out of range",
        "write a number from 0 to 65535",
    ),
    (
        entry('toPorts: [{ports: [{port: "90", endPort: "100"}]}]'),
        2,
        f"{P}.ports[0].endPort",
        "a whole number expected, not the text '100'",
        "",
    ),
    (
        entry('toPorts: [{ports: [{port: "0", endPort: 100}]}]'),
        2,
        f"{P}.ports[0].endPort",
        'port "0" means every port and takes no endPort',
        "remove endPort",
    ),
    (
        entry("toPorts: [{ports: [{port: http, endPort: 100}]}]"),
        2,
        f"{P}.ports[0].endPort",
        "endPort needs a port number",
        "write the number instead of 'http'",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: HTTP}]}]'),
        2,
        f"{P}.ports[0].protocol",
        "unknown protocol 'HTTP'",
        "use one of: TCP, UDP, SCTP, ANY",
    ),
    (
        entry('toPorts: [{ports: [{port: "8", protocol: ICMP}]}]'),
        2,
        f"{P}.ports[0].protocol",
        "ICMP has no ports",
        "write icmps",
    ),
    # icmps
    (entry("icmps: [{}]"), 2, "spec.ingress[0].icmps[0]", "the entry has no fields", "write fields"),
    (
        entry("icmps: [{fields: [{family: IPv5, type: 8}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].family",
        "unknown family 'IPv5'",
        "use one of: IPv4, IPv6",
    ),
    (
        entry("icmps: [{fields: [{family: IPv4}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0]",
        "the entry has no type",
        "write type",
    ),
    (
        entry("icmps: [{fields: [{type: 256}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "256 is out of range",
        "write a number from 0 to 255",
    ),
    (
        entry('icmps: [{fields: [{type: "256"}]}]'),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "256 is out of range",
        "write a number from 0 to 255",
    ),
    (
        entry("icmps: [{fields: [{family: IPv6, type: Photuris}]}]"),
        2,
        "spec.ingress[0].icmps[0].fields[0].type",
        "unknown ICMP type 'Photuris' for IPv6",
        "write its number",
    ),
    (
        entry("icmps: [{fields: [" + "{type: 8}, " * 41 + "]}]"),
        2,
        "spec.ingress[0].icmps[0]",
        "41 fields in one entry, at most 40 are allowed",
        "write another",
    ),
    # request rules
    (
        entry('toPorts: [{ports: [{port: "80", protocol: UDP}], rules: {http: [{}]}}]'),
        2,
        f"{P}.ports[0]",
        "http rules on protocol UDP",
        "write protocol: TCP",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: ANY}], rules: {http: [{}]}}]'),
        2,
        f"{P}.ports[0]",
        "http rules on protocol ANY",
        "write protocol: TCP",
    ),
    (
        entry('toPorts: [{ports: [{port: "80"}], rules: {http: [{}]}}]'),
        2,
        f"{P}.ports[0]",
        "http rules on a port without protocol",
        "write protocol: TCP",
    ),
    (
        entry('toPorts: [{ports: [{port: "0", protocol: TCP}], rules: {http: [{}]}}]'),
        2,
        f"{P}.ports[0]",
        "http rules on port 0",
        "name the ports",
    ),
    (entry("toPorts: [{rules: {http: [{}]}}]"), 2, P, "rules without ports", "name the ports"),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}], kafka: [{}]}}]'),
        2,
        f"{P}.rules",
        "http and kafka in one rules",
        "give each its own",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {htp: [{}]}}]'),
        2,
        f"{P}.rules.htp",
        "unknown field 'htp'",
        "did you mean 'http'?",
    ),
    (
        entry(HTTP + "    - paht: /x"),
        6,
        f"{H}.paht",
        "unknown field 'paht'",
        "did you mean 'path'?",
    ),
    (
        entry(HTTP + "    - path: /(?=x)"),
        6,
        f"{H}.path",
        "'/(?=x)' is not a regular expression that Envoy accepts: invalid perl operator: (?=",
        "use RE2 syntax",
    ),
    (
        entry(HTTP + "    - method: GET|("),
        6,
        f"{H}.method",
        "'GET|(' is not a regular expression that Envoy accepts: missing ): GET|(",
        "use RE2 syntax",
    ),
    (
        entry(HTTP + "    - host: '*.example'"),
        6,
        f"{H}.host",
        "'*.example' is not a regular expression that Envoy accepts: no argument for repetition operator: *",
        "use RE2 syntax",
    ),
    (
        entry(HTTP + "    - path: /a{1001}"),
        6,
        f"{H}.path",
        "'/a{1001}' is not a regular expression that Envoy accepts: invalid repetition size: {1001}",
        "use RE2 syntax",
    ),
    (entry(HTTP + "    - headers: ['']"), 6, f"{H}.headers[0]", "an empty header", "write 'Name: value' or 'Name'"),
    (
        entry(HTTP + "    - headerMatches: [{value: x}]"),
        6,
        f"{H}.headerMatches[0]",
        "the header match has no name",
        "write name",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: 'a: b'}]"),
        6,
        f"{H}.headerMatches[0].name",
        "'a: b' is not a header name",
        "write the name alone",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: a, mismatch: DROP}]"),
        6,
        f"{H}.headerMatches[0].mismatch",
        "unknown mismatch action 'DROP'",
        "use one of: LOG, ADD, DELETE, REPLACE",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: a, secret: {namespace: x}}]"),
        6,
        f"{H}.headerMatches[0].secret",
        "the secret has no name",
        "write name",
    ),
    (
        entry(HTTP + '    - headerMatches: [{name: a, value: "b\\nc"}]'),
        6,
        f"{H}.headerMatches[0].value",
        "the value has a line break or another control character, which no header's value has",
        "write a value that a header can have",
    ),
    (
        entry(HTTP + f"    - headerMatches: [{{name: a, value: {'b' * 16001}}}]"),
        6,
        f"{H}.headerMatches[0].value",
        "the value is longer than 16000 bytes",
        "write a value that a header can have",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: Host, value: b, mismatch: REPLACE}]"),
        6,
        f"{H}.headerMatches[0].name",
        "mismatch REPLACE cannot change the header 'Host', which the request is forwarded by",
        "leave mismatch out, or use LOG",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: ':path', value: /b, mismatch: DELETE}]"),
        6,
        f"{H}.headerMatches[0].name",
        "mismatch DELETE cannot change the header ':path', which the request is forwarded by",
        "leave mismatch out, or use LOG",
    ),
    (
        entry(HTTP + "    - headerMatches: [{name: Content-Length, mismatch: ADD}]"),
        6,
        f"{H}.headerMatches[0].name",
        "mismatch ADD cannot change the header 'Content-Length', which the request is forwarded by",
        "leave mismatch out, or use LOG",
    ),
    (
        entry('toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*"}]}}]'),
        2,
        f"{P}.rules",
        "dns rules are possible in egress only",
        "move them",
    ),
    (
        entry('toPorts: [{ports: [{port: "53", endPort: 54}], rules: {dns: [{matchPattern: "*"}]}}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].ports[0]",
        "dns rules take no endPort",
        "name each port",
    ),
    (
        entry('toPorts: [{ports: [{port: "0"}], rules: {dns: [{matchPattern: "*"}]}}]', "egress"),
        2,
        "spec.egress[0].toPorts[0].ports[0]",
        "dns rules on port 0",
        'write port: "53"',
    ),
    (
        entry('toPorts: [{rules: {dns: [{matchPattern: "*"}]}}]', "egress"),
        2,
        "spec.egress[0].toPorts[0]",
        "rules without ports",
        "name the ports",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{role: produce, apiKey: fetch}]}}]'),
        2,
        f"{P}.rules.kafka[0]",
        "role and apiKey exclude each other",
        "write the role",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{role: admin}]}}]'),
        2,
        f"{P}.rules.kafka[0].role",
        "unknown role 'admin'",
        "use one of: produce, consume",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{apiKey: fech}]}}]'),
        2,
        f"{P}.rules.kafka[0].apiKey",
        "unknown apiKey 'fech'",
        "did you mean 'fetch'?",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{topic: "a b"}]}}]'),
        2,
        f"{P}.rules.kafka[0].topic",
        "'a b' is not a Kafka topic",
        "use at most 255",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{topic: "' + "a" * 256 + '"}]}}]'),
        2,
        f"{P}.rules.kafka[0].topic",
        "'" + "a" * 80 + "...' is not a Kafka topic",
        "use at most 255",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: TCP}], rules: {kafka: [{apiVersion: "x"}]}}]'),
        2,
        f"{P}.rules.kafka[0].apiVersion",
        "'x' is not an API version",
        "write a number in quotes",
    ),
    (
        entry('toPorts: [{ports: [{port: "9092", protocol: UDP}], rules: {kafka: [{}]}}]'),
        2,
        f"{P}.ports[0]",
        "kafka rules on protocol UDP",
        "write protocol: TCP",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {grpc: [{method: Get}]}}]'),
        2,
        f"{P}.rules.grpc[0]",
        "the grpc rule has no service",
        "write service",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {grpc: [{service: /a.B/}]}}]'),
        2,
        f"{P}.rules.grpc[0].service",
        "'/a.B/' is not a gRPC service",
        "write package.Service",
    ),
    (
        entry('toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {grpc: [{service: a.B, method: /Get}]}}]'),
        2,
        f"{P}.rules.grpc[0].method",
        "'/Get' is not a gRPC method",
        "write the method's bare name",
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


@pytest.mark.parametrize(("text", "line", "path", "message", "hint"), REFUSALS, ids=[row[3][:60] for row in REFUSALS])
def test_a_refusal_has_its_place_and_sentence(text: str, line: int, path: str, message: str, hint: str) -> None:
    parsed = parse_policies(spec(text), "p.yaml", refuse={})
    errors = [problem for problem in parsed.problems if problem.is_error]
    assert [(problem.line, problem.path, problem.message) for problem in errors] == [(FIRST + line, path, message)]
    assert errors[0].hint.startswith(hint)
    assert parsed.policies == ()
    assert [str(key) for key in parsed.broken] == ["default/p"]
    assert not parsed.unreadable


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


WARNINGS: list[tuple[str, int, str, str, str]] = [
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
        "endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: other}}\ningress: [{}]",
        0,
        "spec.endpointSelector",
        "the policy selects endpoints of its own namespace 'default', not of 'other'",
        "remove the namespace",
    ),
    (
        SELECTOR + "ingress: [{}]\nenableDefaultDeny: {egress: true}",
        2,
        "spec.enableDefaultDeny.egress",
        "has no effect: the rule has no egress section",
        "add egress: [{}]",
    ),
]


@pytest.mark.parametrize(("text", "line", "path", "message", "hint"), WARNINGS, ids=[row[3][:60] for row in WARNINGS])
def test_a_warning_leaves_the_policy_usable(text: str, line: int, path: str, message: str, hint: str) -> None:
    parsed = parse_policies(spec(text), "p.yaml", refuse={})
    (problem,) = parsed.problems
    assert problem.severity is Severity.WARNING
    assert (problem.line, problem.path, problem.message) == (FIRST + line, path, message)
    assert problem.hint.startswith(hint)
    assert parsed.ok
    assert len(parsed.policies) == 1
