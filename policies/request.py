"""Requests, and which request rules match them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

from .dns_name import rule_matches
from .endpoint_policy import (
    DnsRules,
    GrpcRule,
    HeaderMatch,
    HttpRule,
    HttpRules,
    KafkaRule,
    KafkaRules,
    L7Rules,
    MismatchAction,
    TlsRules,
)
from .header_action import HeaderAction, action_on, change
from .interception import Greeting, passed_over
from .kafka_api import API_NAMES, TOPIC_KEYS
from .regex import matches

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """`path` is `:path` with its query string. Header names are lower-case; repeated headers are joined with ",".

    `encrypted` is a request inside TLS, as is one with a `server_name` (SNI). `hidden` are the headers whose values
    came from a secret on the way: reasons do not show them.
    """

    method: str
    path: str
    host: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS, hash=False)
    server_name: str = ""
    hidden: frozenset[str] = frozenset()
    encrypted: bool = False

    def header(self, name: str) -> str | None:
        """A header's value as Envoy's matchers see it: pseudo headers count, and `host` is `:authority`."""
        match name:
            case ":method":
                return self.method
            case ":path":
                return self.path
            case "host" | ":authority":
                return self.host or None
        return self.headers.get(name)

    def after(self, actions: Iterable[HeaderAction]) -> HttpRequest:
        """The request as the actions of header matches leave it."""
        actions = tuple(actions)
        hidden = self.hidden | {action.name for action in actions if action.secret}
        return replace(self, headers=change(self.headers, actions), hidden=hidden) if actions else self

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class KafkaRequest:
    """`topics` is empty for a request that carries none."""

    api_key: int
    api_version: int = 0
    client_id: str = ""
    topics: frozenset[str] = frozenset()
    server_name: str = ""

    def __str__(self) -> str:
        return f"Kafka {API_NAMES.get(self.api_key, self.api_key)}"


@dataclass(frozen=True, slots=True)
class DnsRequest:
    """A query for one name."""

    name: str
    server_name: str = ""

    def __str__(self) -> str:
        return f"DNS query for {self.name}"


@dataclass(frozen=True, slots=True)
class TlsRequest:
    """A TLS connection of which only the server name is seen (SNI; empty when the client sent none). Not `encrypted`:
    it was, and Envoy has taken the TLS away."""

    server_name: str = ""
    encrypted: bool = True

    def __str__(self) -> str:
        return f"TLS to {self.server_name or 'no server name'}" if self.encrypted else "what was inside TLS"


Request: TypeAlias = HttpRequest | KafkaRequest | DnsRequest | TlsRequest


class Outcome(NamedTuple):
    """Whether rules match a request, why (not), and what those that match do to its headers."""

    matched: bool
    why: str
    actions: tuple[HeaderAction, ...] = ()


def greeting(request: Request) -> Greeting:
    """What the connection of a request shows first."""
    encrypted = isinstance(request, HttpRequest | TlsRequest) and request.encrypted
    return Greeting(encrypted or bool(request.server_name), request.server_name)


def judge_l7(l7: L7Rules | None, tls: TlsRules | None, request: Request) -> Outcome:
    """Whether the request rules of one resolved rule let the request pass."""
    shown = greeting(request)
    if tls is not None:
        if why := passed_over(tls, shown):
            return Outcome(False, why)
        if lacking := next((each.lacks for each in (tls.terminating, tls.originating) if each and each.lacks), ""):
            return Outcome(False, lacking)
    elif l7 is not None and shown.encrypted and not isinstance(request, TlsRequest):
        return Outcome(False, "the connection is encrypted, and the rule reads requests")
    if awaits_requests(l7, tls, request):
        return Outcome(False, "its requests are judged by Envoy")
    match l7, request:
        case None, _:
            return Outcome(True, "the connection is allowed with every request")
        case HttpRules(), HttpRequest():
            return _judge_http(l7, request)
        case KafkaRules(), KafkaRequest():
            return _judge_kafka(l7, request)
        case DnsRules(), DnsRequest():
            for rule in l7.dns:
                if rule_matches(rule, request.name):
                    return Outcome(True, f"{request} matches {rule.match_name or rule.match_pattern}")
            names = " or ".join(rule.match_name or rule.match_pattern or "" for rule in l7.dns)
            return Outcome(False, f"{request} is not for {names}")
    return Outcome(False, f"{request} is not what the rule speaks about")


def awaits_requests(l7: L7Rules | None, tls: TlsRules | None, request: Request) -> bool:
    """True when the rule speaks about a connection of TLS, or of what was in it, and judges by requests, which are not
    known."""
    if not isinstance(l7, HttpRules) or not isinstance(request, TlsRequest):
        return False
    if tls is None:
        return not request.encrypted
    return not passed_over(tls, greeting(request)) and not any(
        each is not None and each.lacks for each in (tls.terminating, tls.originating)
    )


def _judge_http(rules: HttpRules, request: HttpRequest) -> Outcome:
    """All rules are looked at, not only up to the first match: the header actions of every one that matches apply."""
    outcomes = [http_outcome(rule, request) for rule in rules.http]
    outcomes += [grpc_outcome(rule, request) for rule in rules.grpc]
    actions = tuple(action for outcome in outcomes for action in outcome.actions)
    for index, outcome in enumerate(outcomes):
        if outcome.matched:
            which = f" (rule {index + 1} of {len(outcomes)})" if len(outcomes) > 1 else ""
            return Outcome(True, f"{request} matches{which}", actions)
    return Outcome(False, _join([outcome.why for outcome in outcomes]), actions)


def _join(reasons: list[str], limit: int = 5) -> str:
    distinct = list(dict.fromkeys(reasons))
    more = f"; and {len(distinct) - limit} more" if len(distinct) > limit else ""
    return "; ".join(distinct[:limit]) + more


def http_outcome(rule: HttpRule, request: HttpRequest) -> Outcome:
    """Whether one http rule matches. A header match with a mismatch action holds whatever the header says.

    The actions are those of a rule whose other conditions hold, as in the reference
    (https://github.com/cilium/proxy/blob/main/cilium/network_policy.cc, HttpNetworkPolicyRule).
    """
    if rule.method is not None and not matches(rule.method, request.method):
        return Outcome(False, f"method {request.method} is not {rule.method}")
    if rule.path is not None and not matches(rule.path, request.path):
        return Outcome(False, _path_reason(rule.path, request.path))
    if rule.host is not None and not matches(rule.host, request.host):
        return Outcome(False, f"host '{request.host}' is not {rule.host}")
    actions: list[HeaderAction] = []
    for header in rule.headers:
        why, action = _judge_header(header, request)
        if why:
            return Outcome(False, why)
        if action is not None:
            actions.append(action)
    return Outcome(True, f"{request} matches", tuple(actions))


def _path_reason(pattern: str, path: str) -> str:
    bare, question, _ = path.partition("?")
    if question and matches(pattern, bare):
        return f"path {path} does not match {pattern}: the query string counts"
    if path.startswith(pattern):
        return (
            f"path {path} does not match {pattern}: the whole path counts, a prefix is written {pattern.rstrip('/')}/.*"
        )
    return f"path {path} does not match {pattern}"


def _judge_header(header: HeaderMatch, request: HttpRequest) -> tuple[str, HeaderAction | None]:
    """Why the header does not hold ("" when it does), and the action to take instead of failing."""
    if header.lacks:
        return f"secret {header.lacks} gives no value for header {header.name}", None
    found = request.header(header.name)
    if (found is not None) if header.value is None else (found == header.value):
        return "", None
    if header.mismatch is not MismatchAction.DENY:
        return "", action_on(header, found)
    if found is None:
        return f"header {header.name} is missing", None
    if header.secret:
        return f"header {header.name} is not the value of its secret", None
    shown = "a value from a secret" if header.name in request.hidden else f"'{found}'"
    return f"header {header.name} is {shown}, not '{header.value}'", None


def grpc_outcome(rule: GrpcRule, request: HttpRequest) -> Outcome:
    """A gRPC call is a POST to /package.Service/Method
    (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)."""
    if request.method != "POST":
        return Outcome(False, f"method {request.method} is not POST, so it is no gRPC call")
    prefix = f"/{rule.service}/"
    if rule.method is None:
        if request.path.startswith(prefix):
            return Outcome(True, f"{request} matches")
        return Outcome(False, f"path {request.path} is not a method of {rule.service}")
    if request.path == prefix + rule.method:
        return Outcome(True, f"{request} matches")
    return Outcome(False, f"path {request.path} is not {prefix}{rule.method}")


def _judge_kafka(rules: KafkaRules, request: KafkaRequest) -> Outcome:
    """Every topic must be covered by the union of the rules that match otherwise.

    A request that names no topic (as a client's first Metadata does) asks for none.
    """
    reasons: list[str] = []
    left = set(request.topics) if request.api_key in TOPIC_KEYS else set()
    matched = False
    for rule in rules.kafka:
        if (why := _kafka_mismatch(rule, request)) is not None:
            reasons.append(why)
            continue
        if rule.topic is None or not left:
            return Outcome(True, f"{request} matches")
        matched = True
        left.discard(rule.topic)
        if not left:
            return Outcome(True, f"{request} matches")
    if matched:
        return Outcome(False, f"topic {', '.join(sorted(left))} is not allowed")
    return Outcome(False, _join(reasons))


def _kafka_mismatch(rule: KafkaRule, request: KafkaRequest) -> str | None:
    if rule.api_keys and request.api_key not in rule.api_keys:
        wanted = ", ".join(API_NAMES.get(key, str(key)) for key in sorted(rule.api_keys))
        return f"API {API_NAMES.get(request.api_key, str(request.api_key))} is not {wanted}"
    if rule.api_version is not None and rule.api_version != request.api_version:
        return f"API version {request.api_version} is not {rule.api_version}"
    if rule.client_id is not None and rule.client_id != request.client_id:
        return f"client id '{request.client_id}' is not '{rule.client_id}'"
    return None
