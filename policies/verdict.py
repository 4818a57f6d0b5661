"""The one verdict function. `policy explain`, the tests and the live data plane must agree with it.

https://docs.cilium.io/en/stable/security/policy/intro/ for the order: deny, then allow, then the default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from .endpoint_policy import Direction, DirectionPolicy, HttpRules, Protocol, ResolvedRule
from .header_action import HeaderAction
from .http_path import LONGEST, judged_path
from .identity import Reserved
from .interception import Interception, Taken, passed_over, take_up
from .proxy_kind import clash
from .request import HttpRequest, KafkaRequest, Request, awaits_requests, greeting, judge_l7


class Verdict(StrEnum):
    """REDIRECT: the connection goes to Envoy, which decides request by request, and no request was given."""

    ALLOW = "allow"
    DENY = "deny"
    REDIRECT = "redirect"


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule, whether it applies to the flow, and why (or why not)."""

    rule: ResolvedRule
    matched: bool
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its proof. `rule` is the one that decided; None when the default did.

    `redirected` is true when the connection passes through Envoy. `actions` are what header matches then do to the
    request, in the order of the rules, each once: all rules judge the request as it came, and then it is changed.
    `interception` is what Envoy does to the connection of a request that it takes up.
    """

    verdict: Verdict
    reason: str
    rule: ResolvedRule | None
    considered: tuple[Considered, ...]
    redirected: bool = False
    actions: tuple[HeaderAction, ...] = ()
    interception: Interception | None = None


def judge(
    policy: DirectionPolicy,
    peer: int,
    protocol: Protocol,
    port: int,
    request: Request | None = None,
    *,
    peer_name: str = "",
    taken_up: bool = False,
    direction: Direction = Direction.EGRESS,
) -> Judgement:
    """Whether one direction of an endpoint's policy lets a flow pass.

    `peer` is the numeric identity of the other side and `port` the destination's (the type, for ICMP). Without a
    `request` a connection that goes to Envoy is judged REDIRECT, unless every request would pass. `peer_name` is how
    reasons call the peer. `taken_up` when the policy of the other side has made Envoy take the connection up already.
    `direction` is the policy's; it matters only where the peer is this node: a client that is let in past all proxies.
    """
    found = _consider(policy, peer, peer_name or f"identity {peer}", protocol, port, request)
    request, redirecting, plain = found.request, found.redirecting, found.plain
    matching = found.matching or _together(found.covering, request)
    past_proxies = plain is not None and direction is Direction.INGRESS and peer == Reserved.HOST
    clashing = "" if past_proxies else clash(found.covering, protocol)
    redirected = found.denying is None and redirecting is not None and not clashing
    unreadable = _unreadable(redirecting, request) if redirected and not past_proxies else ""
    taken = take_up(found.covering, greeting(request)) if redirected and request is not None else Taken()
    if taken.interception is not None and taken_up:
        taken = Taken(fault="Envoy takes a connection up once, and has done so for the policy of its client")

    def outcome(verdict: Verdict, reason: str, rule: ResolvedRule | None) -> Judgement:
        done = tuple(dict.fromkeys(found.actions)) if redirected and not taken.fault else ()
        return Judgement(verdict, reason, rule, tuple(found.considered), redirected, done, taken.interception)

    if found.denying is not None:
        return outcome(Verdict.DENY, f"denied by {found.denying.origin}", found.denying)
    if clashing:
        return outcome(Verdict.DENY, clashing, None)
    if unreadable:
        return outcome(Verdict.DENY, unreadable, None)
    if found.refused and not taken.fault:  # what is not taken up is not read
        return outcome(Verdict.DENY, found.refused, None)
    if plain is not None:
        return outcome(Verdict.ALLOW, f"allowed by {plain.origin}", plain)
    if redirecting is None:
        if policy.default_deny:
            return outcome(Verdict.DENY, "no rule allows it", None)
        return outcome(Verdict.ALLOW, "no policy turns the default to deny", None)
    if matching is not None and not taken.fault:
        return outcome(Verdict.ALLOW, f"allowed by {matching.origin}", matching)
    if not policy.default_deny:
        return outcome(Verdict.ALLOW, "no policy turns the default to deny", None)
    if taken.fault:
        return outcome(Verdict.DENY, taken.fault, None)
    if request is None or found.pending is not None:
        judging = found.pending or redirecting
        return outcome(Verdict.REDIRECT, f"Envoy judges each request by {judging.origin}", judging)
    return outcome(Verdict.DENY, f"no request rule of {redirecting.origin} allows it", None)


@dataclass(slots=True)
class _Found:
    """What the rules say of a flow, the first of each kind: one that denies, one that allows past proxies, one that
    asks for a proxy, one whose request rule matches, one that waits for requests inside of what was TLS. `covering`:
    all that apply to the connection. `refused`: why Envoy refuses the request. `request`: as it is judged."""

    request: Request | None
    considered: list[Considered] = field(default_factory=list)
    covering: list[ResolvedRule] = field(default_factory=list)
    actions: list[HeaderAction] = field(default_factory=list)
    denying: ResolvedRule | None = None
    plain: ResolvedRule | None = None
    redirecting: ResolvedRule | None = None
    matching: ResolvedRule | None = None
    pending: ResolvedRule | None = None
    refused: str = ""


def _consider(
    policy: DirectionPolicy, peer: int, peer_name: str, protocol: Protocol, port: int, asked: Request | None
) -> _Found:
    request, as_judged, refusal = _as_envoy_sees(asked)
    found = _Found(request)
    for rule in policy.rules:
        if (why := _why_not_covered(rule, peer, peer_name, protocol, port)) is not None:
            found.considered.append(Considered(rule, False, why))
            continue
        found.covering.append(rule)
        matched, why = True, f"{peer_name} and {protocol} port {port} match"
        if rule.deny:
            found.denying = found.denying or rule
        elif not rule.redirects:
            found.plain = found.plain or rule
        else:
            found.redirecting = found.redirecting or rule
            if request is None:
                why += "; its requests are judged by Envoy"
            elif refusal and _reads(rule, request):
                matched, why = False, refusal
                found.refused = refusal
            else:
                matched, why, acting = judge_l7(rule.l7, rule.tls, request)
                why += as_judged
                found.actions += acting
                if matched:
                    found.matching = found.matching or rule
                elif awaits_requests(rule.l7, rule.tls, request):
                    found.pending = found.pending or rule
        found.considered.append(Considered(rule, matched, why))
    return found


def _unreadable(redirecting: ResolvedRule | None, request: Request | None) -> str:
    """Why a proxy ends the connection whatever rules say of it: it is TLS, and the proxy reads what is in it."""
    if redirecting is None or redirecting.tls is not None or request is None or not greeting(request).encrypted:
        return ""
    return f"the connection is TLS, and {redirecting.origin} has Envoy read what connections say"


def _reads(rule: ResolvedRule, request: Request) -> bool:
    """True when Envoy reads the request because of the rule."""
    return isinstance(rule.l7, HttpRules) and (rule.tls is None or not passed_over(rule.tls, greeting(request)))


def _together(covering: list[ResolvedRule], request: Request | None) -> ResolvedRule | None:
    """The first of the Kafka rules that cover all topics of a request together, when none of them does alone."""
    if not isinstance(request, KafkaRequest) or len(request.topics) < 2:
        return None
    first: ResolvedRule | None = None
    rules = [rule for rule in covering if rule.redirects]
    for topic in request.topics:
        one = replace(request, topics=frozenset({topic}))
        found = next((rule for rule in rules if judge_l7(rule.l7, rule.tls, one).matched), None)
        if found is None:
            return None
        first = first or found
    return first


def _as_envoy_sees(request: Request | None) -> tuple[Request | None, str, str]:
    """The request with the path that is judged, how a reason mentions that it is another one, and why Envoy refuses it
    whatever the rules say. Both are empty for most requests."""
    if not isinstance(request, HttpRequest):
        return request, "", ""
    for what, value in (("host", request.host), ("method", request.method)):
        if len(value.encode(errors="surrogatepass")) > LONGEST:
            return request, "", f"Envoy refuses the {what} before any rule is asked: it has at most {LONGEST} bytes"
    path, refusal = judged_path(request.path)
    if refusal:
        return request, "", f"Envoy refuses the path {request.path} before any rule is asked: {refusal}"
    if path == request.path:
        return request, "", ""
    return replace(request, path=path), f" (path {request.path} is judged as {path})", ""


def _why_not_covered(rule: ResolvedRule, peer: int, peer_name: str, protocol: Protocol, port: int) -> str | None:
    """Why the rule does not speak about this peer and port; None when it does."""
    if rule.peers is not None and peer not in rule.peers:
        return f"{peer_name} is not one of its peers" if rule.peers else "it selects nobody"
    if rule.ports is None or any(span.holds(protocol, port) for span in rule.ports):
        return None
    if not rule.ports:
        return "none of its named ports is known"
    return f"{protocol} port {port} is not {' or '.join(str(span) for span in rule.ports)}"
