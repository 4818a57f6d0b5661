"""Both directions of a flow judged, with the proof, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .endpoint_policy import Direction, ResolvedRule
from .flow import Flow, Peer, find_peer
from .interception import Interception
from .request import HttpRequest, Request, TlsRequest
from .verdict import Considered, Judgement, Verdict, judge
from .world import World


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happens to a flow and why. A direction is None where nothing judges it: the world's egress, say."""

    flow: Flow
    source: Peer
    destination: Peer
    egress: Judgement | None
    ingress: Judgement | None

    @property
    def verdict(self) -> Verdict:
        """Both directions must allow; REDIRECT when Envoy has the last word and the flow names no request."""
        verdicts = {side.verdict for side in (self.egress, self.ingress) if side is not None}
        for verdict in (Verdict.DENY, Verdict.REDIRECT):
            if verdict in verdicts:
                return verdict
        return Verdict.ALLOW

    @property
    def reason(self) -> str:
        """One sentence: the direction that decided and its reason."""
        for direction, side in ((Direction.EGRESS, self.egress), (Direction.INGRESS, self.ingress)):
            if side is not None and side.verdict is self.verdict and self.verdict is not Verdict.ALLOW:
                return f"{direction}: {side.reason}"
        sides = ((Direction.INGRESS, self.ingress), (Direction.EGRESS, self.egress))
        said = [f"{direction}: {side.reason}" for direction, side in sides if side is not None]
        return "; ".join(said) or "no endpoint of this node is involved"

    @property
    def deciding(self) -> ResolvedRule | None:
        """The rule that decided: the denying side's, else the server's, else the client's. None for a default."""
        for side in (self.egress, self.ingress):
            if side is not None and side.verdict is Verdict.DENY:
                return side.rule
        for side in (self.ingress, self.egress):
            if side is not None and side.rule is not None:
                return side.rule
        return None

    @property
    def arriving(self) -> HttpRequest | None:
        """The request as the header matches of both sides leave it; None when the flow is about no such request."""
        request = self.flow.request
        if not isinstance(request, HttpRequest):
            return None
        for side in (self.egress, self.ingress):
            request = request.after(side.actions) if side is not None else request
        return request

    def to_json(self) -> dict[str, Any]:
        """{"verdict", "reason", "from", "to", "egress": {...}, "ingress": {...}}; each direction has "verdict",
        "reason", "policy", "rule", "redirected" and "considered", a list of every rule in order with "matched" and
        "why"; "headers" where header matches change them, a list of "action", "name" and "value" (null for a secret's);
        and "tls" where Envoy takes the connection up, the secrets "terminating" and "originating" (or null)."""
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "from": {"name": self.source.name, "identity": self.source.identity},
            "to": {"name": self.destination.name, "identity": self.destination.identity},
            "egress": _side_json(self.egress, self.source),
            "ingress": _side_json(self.ingress, self.destination),
        }


def explain(world: World, flow: Flow) -> Explanation:
    """Judge the client's egress and the server's ingress. Raises FlowError when the flow names nobody we know."""
    source, destination = find_peer(world, flow.source), find_peer(world, flow.destination)
    egress = _judge(world, flow, Direction.EGRESS, source, destination)
    arriving = replace(flow, request=passed_on(flow.request, egress)) if egress is not None else flow
    taken_up = egress is not None and egress.interception is not None
    ingress = _judge(world, arriving, Direction.INGRESS, destination, source, taken_up)
    return Explanation(flow, source, destination, egress, ingress)


def passed_on(request: Request | None, egress: Judgement) -> Request | None:
    """The request as the client's policy lets it go on to the server's. TLS that Envoy begins for what was none names
    no server that the other policy could be asked about."""
    if isinstance(request, HttpRequest):
        request = request.after(egress.actions)
    if egress.interception is None or not isinstance(request, HttpRequest | TlsRequest):
        return request
    encrypted = egress.interception.originating is not None
    name = request.server_name if encrypted and egress.interception.terminating is not None else ""
    return replace(request, encrypted=encrypted, server_name=name)


def _judge(
    world: World, flow: Flow, direction: Direction, subject: Peer, other: Peer, taken_up: bool = False
) -> Judgement | None:
    if subject.endpoint is None:
        return None
    policy = world.policy_of(subject.endpoint).direction(direction)
    name = f"{other.name} ({world.peer_name(other.identity)})" if other.endpoint is not None else other.name
    return judge(policy, other.identity, flow.protocol, flow.port, flow.request, peer_name=name, taken_up=taken_up)


def _side_json(side: Judgement | None, subject: Peer) -> dict[str, Any]:
    if side is None:
        return {
            "verdict": Verdict.ALLOW.value,
            "reason": f"{subject.name} is no workload of ours: nothing judges this direction",
            "policy": None,
            "rule": None,
            "redirected": False,
            "considered": [],
        }
    actions = [{"action": each.action.value, "name": each.name, "value": each.shown} for each in side.actions]
    return {
        "verdict": side.verdict.value,
        "reason": side.reason,
        **_place_json(side.rule),
        "redirected": side.redirected,
        **({"headers": actions} if actions else {}),
        **({"tls": _tls_json(side.interception)} if side.interception is not None else {}),
        "considered": [_considered_json(item) for item in side.considered],
    }


def _tls_json(interception: Interception) -> dict[str, Any]:
    both = {"terminating": interception.terminating, "originating": interception.originating}
    return {name: "/".join(context.secret) if context is not None else None for name, context in both.items()}


def _place_json(rule: ResolvedRule | None) -> dict[str, Any]:
    if rule is None:
        return {"policy": None, "rule": None}
    origin = rule.origin
    policy = f"{origin.namespace}/{origin.policy}" if origin.namespace else origin.policy
    return {"policy": policy, "rule": origin.path, "kind": origin.kind, "source": origin.source, "line": origin.line}


def _considered_json(item: Considered) -> dict[str, Any]:
    effect = "deny" if item.rule.deny else "allow"
    return {**_place_json(item.rule), "effect": effect, "matched": item.matched, "why": item.why}
