"""Both directions of a flow judged, with the proof, for people and for programs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from .endpoint_policy import Direction, ResolvedRule
from .errors import FlowError
from .flow import Flow, Peer, find_peer, find_receiver, is_node
from .identity import IPNetwork, Reserved
from .interception import Interception
from .request import HttpRequest, Request, TlsRequest
from .service import Backend, Frontend, Service
from .verdict import Considered, Judgement, Verdict, judge
from .workload import IPAddress
from .world import World

_NO_PROXY = "a rule judges its requests, and no proxy takes up what processes of the node send and are sent"
_SEVERITY = (Verdict.ALLOW, Verdict.REDIRECT, Verdict.DENY)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What happens to a flow and why. A direction is None where nothing judges it: the world's egress, say.

    A flow to a service's address goes to one of its `backends`, each of which is judged: the directions are those of
    the one with the strictest verdict. Where an end is cut off no direction is asked.
    """

    flow: Flow
    source: Peer
    destination: Peer
    egress: Judgement | None
    ingress: Judgement | None
    service: Service | None = None
    backends: tuple[ServedBy, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Both directions must allow; REDIRECT when Envoy has the last word and the flow names no request."""
        if self.cut_off:
            return Verdict.DENY
        if self.service is not None and not self.backends:
            return Verdict.DENY
        verdicts = {side.verdict for side in (self.egress, self.ingress) if side is not None}
        for verdict in (Verdict.DENY, Verdict.REDIRECT):
            if verdict in verdicts:
                return verdict
        return Verdict.ALLOW

    @property
    def reason(self) -> str:
        """One sentence: the direction that decided and its reason."""
        if self.service is not None:
            return self._service_reason(self.service)
        if self.cut_off:
            return self.cut_off
        for direction, side in ((Direction.EGRESS, self.egress), (Direction.INGRESS, self.ingress)):
            if side is not None and side.verdict is self.verdict and self.verdict is not Verdict.ALLOW:
                return f"{direction}: {side.reason}"
        sides = ((Direction.INGRESS, self.ingress), (Direction.EGRESS, self.egress))
        said = [f"{direction}: {side.reason}" for direction, side in sides if side is not None]
        return "; ".join(said) or "no endpoint of this node is involved"

    def _service_reason(self, service: Service) -> str:
        if not self.backends:
            if any((each.port, each.protocol) == (self.flow.port, self.flow.protocol) for each in service.ports):
                return f"service {service.key} has no backends for this port: connections are refused"
            return f"service {service.key} has no port {self.flow.port}/{self.flow.protocol}: connections are refused"
        denied = sum(each.explanation.verdict is Verdict.DENY for each in self.backends)
        count = f"{len(self.backends)} backends" if len(self.backends) > 1 else "its one backend"
        if not denied:
            return f"service {service.key} leads to {count}, and none is denied"
        strictest = max(self.backends, key=lambda each: _SEVERITY.index(each.explanation.verdict))
        of = f"{denied} of {count} are" if len(self.backends) > 1 else f"{count} is"
        return f"service {service.key}: {of} denied; {strictest.backend}: {strictest.explanation.reason}"

    @property
    def cut_off(self) -> str:
        """Why an end is nobody; empty when both are somebody."""
        return self.source.cut_off or self.destination.cut_off

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
        and "tls" where Envoy takes the connection up, the secrets "terminating" and "originating" (or null).

        To a service's address also "service", its name, and "backends", a list of {"address", "port", "weight"} with
        all of the above for each."""
        more: dict[str, Any] = {}
        if self.service is not None:
            more = {"service": self.service.key, "backends": [each.to_json() for each in self.backends]}
        return {
            "verdict": self.verdict.value,
            "reason": self.reason,
            "from": {"name": self.source.name, "identity": self.source.identity},
            "to": {"name": self.destination.name, "identity": self.destination.identity},
            "egress": _side_json(self.egress, self.source, self.cut_off),
            "ingress": _side_json(self.ingress, self.destination, self.cut_off),
            **more,
        }


@dataclass(frozen=True, slots=True)
class ServedBy:
    """One backend of a service, and what happens to the flow when it is the one that is chosen."""

    backend: Backend
    weight: int
    explanation: Explanation

    def to_json(self) -> dict[str, Any]:
        """{"address", "port", "weight"} and what the explanation says."""
        where = {"address": str(self.backend.ip), "port": self.backend.port, "weight": self.weight}
        return where | self.explanation.to_json()


def explain(world: World, flow: Flow, closed: Collection[IPNetwork] = ()) -> Explanation:
    """Judge the client's egress and the server's ingress; to a service's address, for each backend. In the networks
    that are `closed` there is nobody but endpoints of this node and the node itself.

    Raises FlowError when the flow names nobody we know."""
    vip = _vip(world, flow.destination)
    if vip is not None:
        return _explain_service(world, flow, vip, closed)
    source = find_peer(world, flow.source, closed)
    destination = find_receiver(world, flow.destination, source, flow.protocol, closed)
    if is_node(source) and is_node(destination):
        return _explain_within(world, flow, source, destination)
    if source.cut_off or destination.cut_off:
        return Explanation(flow, source, destination, None, None)
    egress = _judge(world, flow, Direction.EGRESS, source, destination)
    arriving = replace(flow, request=passed_on(flow.request, egress)) if egress is not None else flow
    taken_up = egress is not None and egress.interception is not None and _have_one_envoy(source, destination)
    ingress = _judge(world, arriving, Direction.INGRESS, destination, source, taken_up)
    return Explanation(flow, source, destination, egress, ingress)


def _explain_within(world: World, flow: Flow, source: Peer, destination: Peer) -> Explanation:
    """By the node's loopback interface, where nothing is judged but processes that have policies of their own."""
    source, destination = (replace(each, identity=int(Reserved.HOST), cut_off="") for each in (source, destination))
    return Explanation(
        flow,
        source,
        destination,
        _judge(world, flow, Direction.EGRESS, source, destination) if _of_node(source) else None,
        _judge(world, flow, Direction.INGRESS, destination, source) if _of_node(destination) else None,
    )


def _vip(world: World, text: str) -> IPAddress | None:
    """The address of a service that `text` is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return address if address in world.frontends.vips else None


def _explain_service(world: World, flow: Flow, vip: IPAddress, closed: Collection[IPNetwork]) -> Explanation:
    if _vip(world, flow.source) is not None:
        raise FlowError(f"{flow.source} is a service's address: nobody sends from it")
    answering = world.frontends.answering.get(Frontend(vip, flow.port, flow.protocol))
    served = [
        ServedBy(backend, weight, explain(world, replace(flow, destination=str(backend.ip), port=backend.port), closed))
        for backend, weight in (answering.backends.items() if answering is not None else ())
        if weight
    ]
    service = answering.service if answering is not None else world.frontends.vips[vip]
    peer = Peer(f"service {service.key} ({vip})", world.identity_at(vip))
    if not served:
        return Explanation(flow, find_peer(world, flow.source, closed), peer, None, None, service)
    strictest = max(served, key=lambda each: _SEVERITY.index(each.explanation.verdict)).explanation
    peer = replace(peer, cut_off=strictest.destination.cut_off)
    return replace(strictest, flow=flow, destination=peer, service=service, backends=tuple(served))


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


def _have_one_envoy(source: Peer, destination: Peer) -> bool:
    """False when just one of both is of this node: then each has the Envoy of its own node."""
    ends = (source.endpoint, destination.endpoint)
    return len({end.local for end in ends if end is not None}) == 1


def _judge(
    world: World, flow: Flow, direction: Direction, subject: Peer, other: Peer, taken_up: bool = False
) -> Judgement | None:
    if subject.endpoint is None:
        return None
    if _of_node(subject) and world.host is not None and not is_node(other):  # which it is part of
        of_node = _judge(world, flow, direction, replace(subject, endpoint=world.host), other)
        if of_node is not None and of_node.verdict is Verdict.DENY:
            return of_node
    policy = world.policy_of(subject.endpoint).direction(direction)
    name = (
        f"{other.name} ({world.peer_name(other.identity)})"
        if other.endpoint is not None and other.endpoint is not world.host
        else other.name
    )
    judged = judge(
        policy,
        other.identity,
        flow.protocol,
        flow.port,
        flow.request,
        peer_name=name,
        taken_up=taken_up,
        direction=direction,
    )
    past_proxies = direction is Direction.INGRESS and other.identity == Reserved.HOST
    if _of_node(subject) and judged.redirected and not past_proxies:
        return replace(judged, verdict=Verdict.DENY, reason=_NO_PROXY, redirected=False, actions=(), interception=None)
    return judged


def _of_node(peer: Peer) -> bool:
    """Processes of the node that have a policy of their own."""
    return peer.endpoint is not None and peer.endpoint.of_node


def _side_json(side: Judgement | None, subject: Peer, cut_off: str) -> dict[str, Any]:
    if side is None:
        return {
            "verdict": (Verdict.DENY if cut_off else Verdict.ALLOW).value,
            "reason": cut_off or f"{subject.name} is no workload of ours: nothing judges this direction",
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
