"""The few words of which documents and flows are made: few, so that rules meet each other."""

from __future__ import annotations

from lockgate.tests.agreement.ground import ENDPOINTS

NAMESPACES = ("default", "shop")
LABELS = {
    "app": ("front", "back", "db"),
    "role": ("web", "job"),
    "tier": ("", "a"),
    "example.com/team": ("x", "y"),
    "container:runtime": ("runc",),
}
KEY_PREFIXES = ("", "", "k8s:", "any:")
ENTITIES = (
    *("all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host", "remote-node", "kube-apiserver"),
    *("ingress", "init", "health", "unmanaged", "none"),
)

# Of the workloads on this node, by the number of their interface, and of those elsewhere.
ADDRESSES = {number: (f"10.200.0.{2 + number}", f"fd00:200::{2 + number}") for number in range(ENDPOINTS)}
ELSEWHERE = (("10.201.0.9", "fd00:200:1::9"), ("192.0.2.77", "2001:db8::77"))
NETWORKS = (
    *("0.0.0.0/0", "10.0.0.0/8", "10.200.0.0/16", "10.200.0.0/29", "10.200.0.3/32", "10.200.0.1/32", "10.201.0.0/16"),
    *("192.0.2.0/24", "192.0.2.128/25", "192.0.2.77/32", "198.51.100.7/32", "128.0.0.0/1", "0.0.0.0/1", "10.1.2.3/8"),
    *("::/0", "fd00::/8", "fd00:200::/64", "fd00:200::3/128", "fd00:200::1/128", "fd00:200::/125", "fd00:200:1::/48"),
    *("2001:db8::/32", "2001:db8:1::/48", "2001:db8::77/128", "8000::/1", "2001:db8:1::1/33"),
    *("::ffff:10.200.0.0/112", "::ffff:192.0.2.77/128"),  # no packet has such an address
)
NAMES = ("api.example.com", "www.example.com", "a.b.example.org")
NAME_PATTERNS = ("*.example.com", "*", "**.example.org", "a*.example.com", "**", "***.example.com", "a.**.org")
NAMED_ADDRESSES = ("198.51.100.7", "198.51.100.8", "2001:db8:1::5", "192.0.2.130", "10.200.0.3", "::ffff:10.200.0.4")
SERVICES = ("front", "back")

PORTS = (80, 443, 8080, 53, 1, 5432, 1023, 8000, 32768, 65535)
SPREADS = (0, 1, 7, 99, 1000, 65535)  # from a first port to the last
PORT_NAMES = ("http", "web-2", "db")
ICMP_TYPES = {"IPv4": ("EchoRequest", "EchoReply", "Timestamp"), "IPv6": ("EchoRequest", "EchoReply")}
ICMP_NUMBERS = (0, 8, 13, 40, 128, 129)

# Some of these Envoy itself would like to write, or calls by another name.
HEADERS = (
    *("x-team", "x-debug", "X-Case", "cookie", "user-agent", "host", "x-forwarded-proto", "x-forwarded-for"),
    *("x-request-id", "x-envoy-original-path", ":path", ":method", ":authority", ":scheme", "content-length"),
)
PLAIN_HEADERS = ("x-team", "x-debug", "X-Case", "cookie", "user-agent")
VALUES = ("a", "a,b", "A", "1", "Bearer x y", "a b", "50% %REQ(:path)%")
HTTP_METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH")

# Secrets for terminatingTLS and for originatingTLS, in each namespace.
SHOWN, TRUSTED = ("shown", "shown-too"), ("trusted", "trusted-too")
# What a rule may name in serverNames, what it holds, and what it misses by little.
SERVER_NAMES = {
    "api.example.com": (("api.example.com", "API.Example.com"), ("apis.example.com", "api.example.co", "example.com")),
    "WWW.example.com.": (("www.example.com",), ("ww.example.com", "www-example.com")),
    "*.example.com": (("api.example.com", "a-1.example.com"), ("example.com", "a.b.example.com")),
    "**.example.com": (("a.b.example.com", "api.example.com"), ("example.com", "a.example.org")),
    "a*.example.com": (("api.example.com", "a.example.com"), ("b.example.com", "a.b.example.com")),
    "*pi.example.com": (("api.example.com", "pi.example.com"), ("apis.example.com", "x.api.example.com")),
    "a.*.example.org": (("a.b.example.org",), ("a.example.org", "a.b.c.example.org")),
    "**.b*.example.org": (("a.b.example.org", "x.a.bb.example.org"), ("b.example.org", "a.c.example.org")),
    "*.com": (("example.com",), ("api.example.com", "com")),
    "example_1.org": (("example_1.org",), ("example-1.org",)),
    "*": (("example.com", "localhost"), ()),
    "**": (("localhost", "a.b.example.com"), ()),
    "a.**.example.org": (("a.b.example.org", "a.b.c.example.org"), ("a.example.org", "b.c.example.org")),
}
