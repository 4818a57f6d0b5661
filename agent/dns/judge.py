"""What the proxy does with a question: the one verdict function, asked about the client's egress. Pure.

The server's ingress was judged by the kernel and has no dns rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from ...policies import World
from ...policies.endpoint_policy import DirectionPolicy, Protocol
from ...policies.request import DnsRequest
from ...policies.verdict import Verdict, judge
from ...policies.workload import Endpoint, IPAddress
from .message import MalformedError, Query, read_query
from .packet import SocketAddress

_MOST_NAMES = 4096  # remembered of one client towards one identity
_MOST_SERVERS = 16384


class Decision(Enum):
    """What becomes of a message."""

    FORWARD = auto()
    REFUSE = auto()  # answered with REFUSED
    MALFORMED = auto()  # answered with FORMERR
    DROP = auto()


@dataclass(frozen=True, slots=True)
class Ruling:
    """`query` is None where the message could not be read."""

    decision: Decision
    why: str
    query: Query | None = None


class DnsJudge:
    """Judges by one world. What it found out it remembers: make a new one for a new world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._clients = {ip: endpoint for endpoint in world.endpoints if endpoint.local for ip in endpoint.ips}
        self._identities: dict[IPAddress, int] = {}
        self._sides: dict[tuple[str, int, int, Protocol], _Side] = {}

    def client(self, ip: IPAddress) -> Endpoint | None:
        """The endpoint of this node that has the address."""
        return self._clients.get(ip)

    def rule(self, client: Endpoint, server: SocketAddress, protocol: Protocol, wire: bytes) -> Ruling:
        """What becomes of the message `wire` that `client` sends to `server`.

        Where every request is allowed nothing is asked of the message but that it is no answer; otherwise it must be a
        query that can be read whole, for an allowed name.
        """
        side = self._side(client, server, protocol)
        try:
            query = read_query(wire)
        except MalformedError as error:
            if error.deaf:
                return Ruling(Decision.DROP, str(error))
            if side.whole:
                return Ruling(Decision.FORWARD, "every request is allowed")
            return Ruling(Decision.MALFORMED, str(error))
        if side.whole:
            return Ruling(Decision.FORWARD, "every request is allowed", query)
        if not query.standard:
            return Ruling(Decision.REFUSE, "only queries are allowed by name", query)
        allowed, why = side.about(query.question.name)
        return Ruling(Decision.FORWARD if allowed else Decision.REFUSE, why, query)

    def _side(self, client: Endpoint, server: SocketAddress, protocol: Protocol) -> _Side:
        identity = self._identities.get(server.ip)
        if identity is None:
            if len(self._identities) >= _MOST_SERVERS:
                self._identities.clear()
            identity = self._identities[server.ip] = self.world.identity_at(server.ip)
        key = (client.key, identity, server.port, protocol)
        side = self._sides.get(key)
        if side is None:
            side = self._sides[key] = _Side(self.world.policy_of(client).egress, identity, protocol, server.port)
        return side


class _Side:
    """One client's egress towards one identity and port: only the rules that speak about it, however many others."""

    def __init__(self, policy: DirectionPolicy, identity: int, protocol: Protocol, port: int) -> None:
        covering = tuple(rule for rule in policy.rules if rule.covers(identity, protocol, port))
        self._policy = DirectionPolicy(policy.default_deny, covering)
        self._flow = identity, protocol, port
        self._known: dict[str, tuple[bool, str]] = {}
        self.whole = judge(self._policy, *self._flow).verdict is Verdict.ALLOW

    def about(self, name: str) -> tuple[bool, str]:
        """Whether a question for `name` is allowed, and why (not)."""
        known = self._known.get(name)
        if known is None:
            judgement = judge(self._policy, *self._flow, DnsRequest(name))
            known = judgement.verdict is Verdict.ALLOW, judgement.reason
            if len(self._known) >= _MOST_NAMES:
                self._known.clear()
            self._known[name] = known
        return known
