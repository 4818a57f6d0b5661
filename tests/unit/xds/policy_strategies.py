"""Random policies and requests around a few identities, ports and paths, for agreement with the verdict function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address, ip_network

from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    GrpcRule,
    HeaderMatch,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    MismatchAction,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.identity import IPNetwork
from lockgate.policies.request import HttpRequest
from lockgate.policies.workload import Endpoint, Workload

PATHS = ("/", "/a", "/a/", "/a/1", "/a/b", "/a/b?c=1", "/b", "/b/2/x", "/pkg.Svc/Get", "/pkg.Svc/", "/ab")
METHODS = ("GET", "POST", "PUT")
HOSTS = ("a.example", "b.example", "api")
HEADERS: tuple[dict[str, str], ...] = (
    *({}, {"x-a": "1"}, {"x-a": "2", "x-b": "1"}, {"x-b": ""}, {"x-a": "1,2"}),
    *({"x-forwarded-proto": "https"}, {"x-a": "50% é", "x-forwarded-proto": "1"}),
)

_PATH_REGEXES = (
    *(None, ".*", "/", "/a", "/a/.*", "/a/b", "/(a|b)/.*", "/a/[0-9]+", "/a(/b)?", "/a/b.*", ".*/x", "/[ab]", "^/b.*$"),
    *(r"/a/b\?c=\d", "/a.*b", "/a|/b/[0-9]/x", ".*b", "/.+", "/a/1|/a/b"),
)
_METHOD_REGEXES = (None, "GET", "GET|POST", "P.*", "P[A-Z]+", ".*")
_HOST_REGEXES = (None, None, "a.example", r"[ab]\.example", ".*example", "api")
_HEADER_MATCHES = (
    HeaderMatch("x-a"),
    HeaderMatch("x-a", "1"),
    HeaderMatch("x-a", "1,2"),
    HeaderMatch("x-b", ""),
    HeaderMatch("x-b:1"),
    HeaderMatch("host", "api"),
    HeaderMatch("x-a", "2", secret=True),
    HeaderMatch("x-a", lacks="default/none"),
    HeaderMatch("x-forwarded-proto"),
)
_ACTIONS = tuple(action for action in MismatchAction if action is not MismatchAction.DENY)
_acting_matches = st.one_of(
    st.builds(
        HeaderMatch,
        st.sampled_from(["x-a", "x-a", "x-b", "x-c"]),
        st.sampled_from([None, "1", "2", "50% é"]),
        st.sampled_from(_ACTIONS),
        secret=st.booleans(),
    ),
    st.sampled_from(
        [
            HeaderMatch("host", "api", MismatchAction.LOG),
            HeaderMatch(":scheme", "x", MismatchAction.LOG),
            HeaderMatch("x-forwarded-proto", None, MismatchAction.LOG),
            HeaderMatch("x-forwarded-proto", "https", MismatchAction.LOG),
        ]
    ),
)


def origin(name: str) -> RuleOrigin:
    """Where a rule called `name` would stand."""
    return RuleOrigin("CiliumNetworkPolicy", "default", name, "spec.ingress[0].toPorts[0]", f"{name}.yaml", 7)


def endpoint(key: str, identity: int, *addresses: str) -> Endpoint:
    """An endpoint of this node."""
    namespace, name = key.split("/")
    return Endpoint(Workload(name, namespace, ()), identity, tuple(map(ip_address, addresses)), 7, "veth7")


def ipcache(entries: Mapping[str, int]) -> dict[IPNetwork, int]:
    """Prefixes as text to identities."""
    return {ip_network(prefix): identity for prefix, identity in entries.items()}


http_rules = st.builds(
    HttpRule,
    path=st.sampled_from(_PATH_REGEXES),
    method=st.sampled_from(_METHOD_REGEXES),
    host=st.sampled_from(_HOST_REGEXES),
    headers=st.lists(st.sampled_from(_HEADER_MATCHES), max_size=2).map(tuple),
)
# Conditions that most requests meet, so that rules act often and together.
_wide_rules = st.builds(
    HttpRule,
    path=st.sampled_from([None, None, "/a.*", "/.*", ".*b.*", "/(a|b)/.*", "/[ab].*", "/a|/a/b|/b", ".*[0-9]?", "/"]),
    method=st.sampled_from([None, None, "GET|POST", "P.*"]),
    host=st.sampled_from([None, None, ".*example", "a.*"]),
    headers=st.lists(st.sampled_from(_HEADER_MATCHES), max_size=1).map(tuple),
)
acting_rules = st.builds(
    lambda rule, before, after: replace(rule, headers=(*before, *rule.headers, *after)),
    st.one_of(_wide_rules, _wide_rules, http_rules),
    st.lists(_acting_matches, max_size=2),
    st.lists(_acting_matches, min_size=1, max_size=2),
)
grpc_rules = st.builds(GrpcRule, st.just("pkg.Svc"), st.sampled_from([None, "Get"]))
l7_rules = st.one_of(
    st.builds(
        HttpRules,
        st.lists(st.one_of(http_rules, acting_rules), min_size=1, max_size=4).map(tuple),
        st.lists(grpc_rules, max_size=1).map(tuple),
    ),
    st.just(KafkaRules((KafkaRule(),))),
)
requests = st.builds(
    HttpRequest,
    method=st.sampled_from(METHODS),
    path=st.sampled_from(PATHS),
    host=st.sampled_from(HOSTS),
    headers=st.sampled_from(HEADERS),
)


def spans(ports: Sequence[int]) -> st.SearchStrategy[PortSpan]:
    """Single ports, a narrow range, a wide one, every port, and another protocol."""
    first, last = min(ports), max(ports)
    return st.sampled_from(
        [
            *(PortSpan(Protocol.TCP, port, port) for port in ports),
            PortSpan(Protocol.TCP, first, last),
            PortSpan(Protocol.TCP, first + 1, 65535),
            PortSpan(Protocol.TCP, 0, 65535),
            PortSpan(Protocol.TCP, max(first - 3, 0), first + 3),
            PortSpan(Protocol.UDP, 0, 65535),
        ]
    )


@st.composite
def rules(draw: st.DrawFn, ports: Sequence[int], identities: Sequence[int]) -> ResolvedRule:
    """One rule about some of the identities and ports."""
    deny = draw(st.integers(0, 4)) == 0
    return ResolvedRule(
        origin(draw(st.sampled_from(["p", "q", "r"]))),
        deny,
        draw(st.none() | st.frozensets(st.sampled_from(identities))),
        draw(st.none() | st.lists(spans(ports), max_size=2).map(tuple)),
        None if deny else draw(st.none() | l7_rules),
    )


def l7_rules_only() -> st.SearchStrategy[ResolvedRule]:
    """HTTP rules for everyone everywhere: what remains is whether requests match."""
    http = st.lists(http_rules, min_size=1, max_size=6).map(tuple)
    return st.builds(
        ResolvedRule,
        st.sampled_from(["p", "q"]).map(origin),
        deny=st.just(False),
        peers=st.none(),
        ports=st.none(),
        l7=st.builds(HttpRules, http, st.lists(grpc_rules, max_size=1).map(tuple)),
    )


def directions(ports: Sequence[int], identities: Sequence[int]) -> st.SearchStrategy[DirectionPolicy]:
    """The policy of one direction: of everything a little, or HTTP rules only."""
    mixed = st.lists(rules(ports, identities), max_size=5).map(tuple)
    return st.one_of(
        st.builds(DirectionPolicy, default_deny=st.sampled_from([True, True, True, False]), rules=mixed),
        st.builds(
            DirectionPolicy,
            default_deny=st.just(True),
            rules=st.lists(l7_rules_only(), min_size=1, max_size=2).map(tuple),
        ),
    )


@st.composite
def changing_directions(draw: st.DrawFn, port: int, identities: Sequence[int]) -> DirectionPolicy:
    """Rules that change headers, several for one request, and sometimes what stands beside them."""
    acting = st.builds(
        ResolvedRule,
        st.sampled_from([origin(name) for name in ("p", "q", "r")]),
        st.just(False),
        st.one_of(st.none(), st.none(), st.frozensets(st.sampled_from(identities), min_size=1)),
        st.just((PortSpan(Protocol.TCP, port, port),)),
        st.builds(
            HttpRules, st.lists(st.one_of(acting_rules, acting_rules, http_rules), min_size=1, max_size=2).map(tuple)
        ),
    )
    beside = draw(
        st.lists(rules([port], identities).filter(lambda rule: not isinstance(rule.l7, KafkaRules)), max_size=1)
    )
    listed = (*draw(st.lists(acting, min_size=1, max_size=2)), *beside)
    return DirectionPolicy(draw(st.sampled_from([True, True, False])), listed)
