"""What was let in and still runs: would it be let in now, as far as is known of it?

A request is judged when it begins, as is a connection of which only bytes are carried (by its greeting), and may
outlive the rule that let it in. Of a request the headers are not known any more, so a condition on one counts as
fulfilled: what is ended here is surely forbidden.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from .endpoint_policy import Direction, DirectionPolicy, HttpRule, HttpRules, Protocol, ResolvedRule
from .explain import passed_on
from .identity import WORKLOAD_IDENTITIES, Reserved
from .request import HttpRequest, TlsRequest
from .verdict import Judgement, Verdict, judge
from .workload import Endpoint, IPAddress
from .world import World

_Running: TypeAlias = HttpRequest | TlsRequest
_KNOWN = frozenset({":method", ":path", ":authority", "host"})


class Ongoing:
    """What one world says of it. It remembers its answers: ask for as long as the world is in force."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._local: dict[IPAddress, Endpoint] = {
            ip: endpoint for endpoint in world.endpoints if endpoint.local for ip in endpoint.ips
        }
        self._of_identity: dict[int, Endpoint] = {endpoint.identity: endpoint for endpoint in self._local.values()}
        self._elsewhere = frozenset(endpoint.identity for endpoint in world.endpoints if not endpoint.local)
        self._verdicts: dict[tuple[IPAddress, IPAddress, int, _Running, str, int], str] = {}
        self._halves: dict[int, tuple[DirectionPolicy, DirectionPolicy]] = {}

    def refusal(
        self, client: IPAddress, server: IPAddress, port: int, request: _Running, chain: str = "", made_by: int = 0
    ) -> str:
        """Why it would be denied now, or, of a connection (TlsRequest), not be carried as it is; empty when it would.
        `chain` is the filter chain that has taken such a connection up (Interception.called), empty for TLS that goes
        on end to end. `made_by` is the client's identity when it connected, 0 when that is not known: it tells who has
        been given the node's address on the way."""
        client_is = self._world.identity_at(client)
        masked = client_is == Reserved.HOST and made_by not in (0, Reserved.HOST)
        key = (client, server, port, request, chain, made_by if masked else 0)
        if key not in self._verdicts:
            subject = self._of_identity.get(made_by) if masked else self._local.get(client)
            if masked and subject is None and made_by in WORKLOAD_IDENTITIES and made_by not in self._elsewhere:
                self._verdicts[key] = "who made it is no endpoint any more"
            else:
                who = made_by if masked else client_is
                self._verdicts[key] = self._refusal(subject, who, server, port, request, chain)
        return self._verdicts[key]

    def _refusal(
        self, client: Endpoint | None, client_is: int, server: IPAddress, port: int, request: _Running, chain: str
    ) -> str:
        carried = isinstance(request, TlsRequest)
        taken = ""
        server_is = self._world.identity_at(server)
        egress = self._judge(Direction.EGRESS, client, server_is, port, request)
        if egress is not None:
            if egress.verdict is Verdict.DENY:
                return f"egress: {egress.reason}"
            if egress.interception is not None:
                taken = egress.interception.called(Direction.EGRESS)
            arriving = passed_on(request, egress)
            assert isinstance(arriving, HttpRequest | TlsRequest)
            request = arriving
        ingress = self._judge(Direction.INGRESS, self._local.get(server), client_is, port, request, bool(taken))
        if ingress is not None:
            if ingress.verdict is Verdict.DENY:
                return f"ingress: {ingress.reason}"
            if ingress.interception is not None:
                taken = ingress.interception.called(Direction.INGRESS)
        if not carried or taken == chain:
            return ""
        if not taken:
            return "Envoy does not take up such connections any more"
        return "Envoy takes up such connections now" + (" in another way" if chain else "")

    def _judge(
        self,
        direction: Direction,
        endpoint: Endpoint | None,
        peer: int,
        port: int,
        request: _Running,
        taken_up: bool = False,
    ) -> Judgement | None:
        """None without an endpoint of this node."""
        if endpoint is None:
            return None
        half = self._world.policy_of(endpoint).direction(direction)
        if id(half) not in self._halves:
            self._halves[id(half)] = (half, without_headers(half))
        _, judging = self._halves[id(half)]
        return judge(judging, peer, Protocol.TCP, port, request, taken_up=taken_up, direction=direction)


def without_headers(half: DirectionPolicy) -> DirectionPolicy:
    """The policy without conditions on headers, but for those which nothing can fulfil."""
    return replace(half, rules=tuple(map(_rule_without_headers, half.rules)))


def _rule_without_headers(rule: ResolvedRule) -> ResolvedRule:
    if not isinstance(rule.l7, HttpRules) or not any(http.headers for http in rule.l7.http):
        return rule
    return replace(rule, l7=replace(rule.l7, http=tuple(map(_http_without_headers, rule.l7.http))))


@lru_cache(maxsize=4096)
def _http_without_headers(rule: HttpRule) -> HttpRule:
    return replace(rule, headers=tuple(each for each in rule.headers if each.lacks or each.name in _KNOWN))
