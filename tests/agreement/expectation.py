"""What the verdict function says about a flow, put as what this node must do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address

from lockgate.policies import Direction, Flow, HttpRequest, Judgement, Reserved, Verdict, World, explain
from lockgate.policies.explain import passed_on
from lockgate.policies.http_path import judged_path
from lockgate.policies.interception import Greeting, Interception
from lockgate.policies.request import TlsRequest, greeting
from lockgate.policies.workload import Endpoint, IPAddress
from lockgate.redirect.plan import DEFAULT_PORTS
from lockgate.tests.agreement.exchange import H1, H2, Wire
from lockgate.tests.agreement.ground import ENVOY_PORT, TLS_PORT
from lockgate.tests.agreement.tls import server_protocols

ACCEPTED, REFUSED_PATH, DENIED = 200, 400, 403

Sides = Mapping[Direction, Judgement]


@dataclass(frozen=True, slots=True)
class Expectation:
    """The node enforces the directions of its own endpoints only: `sides` are those.

    `client` and `server` are the flow's ends when they are on this node, `wire` is how the client speaks. `connection`
    is what is said without a request, `request` with it (the same when the flow has none).
    """

    flow: Flow
    source: IPAddress
    destination: IPAddress
    client: Endpoint | None
    server: Endpoint | None
    from_host: bool
    connection: Sides
    request: Sides
    wire: Wire = Wire.HTTP1

    @classmethod
    def of(cls, world: World, flow: Flow, wire: Wire = Wire.HTTP1) -> Expectation:
        """Asks `explain`, once about the connection and once about the request. Of a client on another node this node
        gets what that node's Envoy passes on."""
        first = explain(world, Flow(flow.source, flow.destination, flow.port, flow.protocol))
        whole = explain(world, flow) if flow.request is not None else first
        client, server = _on_this_node(first.source.endpoint), _on_this_node(first.destination.endpoint)
        if client is None and whole.egress is not None:
            flow = replace(flow, request=passed_on(flow.request, whole.egress))
        here = [
            direction
            for direction, endpoint in ((Direction.EGRESS, client), (Direction.INGRESS, server))
            if endpoint is not None
        ]
        return cls(
            flow,
            ip_address(flow.source),
            ip_address(flow.destination),
            client,
            server,
            first.source.identity == Reserved.HOST,
            _sides(first.egress, first.ingress, here),
            _sides(whole.egress, whole.ingress, here),
            wire,
        )

    def asking(self, world: World) -> Expectation:
        """The same with a request inside the TLS that the flow is about."""
        return Expectation.of(world, replace(self.flow, request=self.sent), self.wire)

    @property
    def denied(self) -> bool:
        """True when a rule or a default refuses the connection, whatever is asked on it."""
        return any(side.verdict is Verdict.DENY and not _clashes(side) for side in self.connection.values())

    @property
    def redirected(self) -> bool:
        """True when a proxy carries the connection, or would if there was one for all of the rules. The node's own is
        never redirected: policies let it in."""
        if self.denied or self.from_host:
            return False
        return any(side.redirected or _clashes(side) for side in self.connection.values())

    @property
    def listener(self) -> int:
        """The port of the proxy that a redirected connection is for; 0 when no proxy serves all of its rules, and then
        it is dropped."""
        ports = self.proxies
        return next(iter(ports)) if len(ports) == 1 else 0

    @property
    def proxies(self) -> frozenset[int]:
        """The ports of all proxies that rules about the connection need."""
        return frozenset(
            DEFAULT_PORTS.serving(each.rule, self.flow.protocol)
            for side in self.connection.values()
            for each in side.considered
            if each.matched and each.rule.redirects
        )

    @property
    def word(self) -> str:
        """For statistics: allowed, denied, redirected, or unserved (redirected to no proxy)."""
        if self.denied:
            return "denied"
        if not self.redirected:
            return "allowed"
        return "redirected" if self.listener else "unserved"

    @property
    def asked(self) -> int:
        """The port of the listener that can be asked about the request: the one that the kernel sends it to, or, where
        it sends it to none, the one for what the client begins with."""
        if self.redirected:
            return self.listener
        return TLS_PORT if self.greeting.encrypted else ENVOY_PORT

    @property
    def status(self) -> int:
        """What HTTP answers to the request."""
        if all(side.verdict is Verdict.ALLOW for side in self.request.values()):
            return ACCEPTED
        return REFUSED_PATH if self.refused_path else DENIED

    @property
    def awaits_request(self) -> bool:
        """True when the flow is about TLS alone, and what comes inside decides, or is allowed and may be changed."""
        if not isinstance(self.flow.request, TlsRequest):
            return False
        verdicts = {side.verdict for side in self.request.values()}
        reads = self.interception is not None and self.interception.http
        return Verdict.REDIRECT in verdicts or (reads and verdicts == {Verdict.ALLOW})

    @property
    def refused_path(self) -> bool:
        """True when Envoy refuses the request's path whatever the policies say."""
        request = self.flow.request
        return self.read and isinstance(request, HttpRequest) and bool(judged_path(request.path).refusal)

    @property
    def greeting(self) -> Greeting:
        """How the client begins."""
        return greeting(self.flow.request) if self.flow.request is not None else Greeting(False)

    @property
    def interception(self) -> Interception | None:
        """What Envoy does to the connection of the request."""
        return next((side.interception for side in self.request.values() if side.interception is not None), None)

    @property
    def read(self) -> bool:
        """True when Envoy reads the request, and does not only carry it."""
        if self.asked != TLS_PORT:
            return True
        return self.interception is not None and self.interception.http

    @property
    def shown(self) -> str:
        """The Secret with the certificate that the client is shown; empty when it is the server's own, or none."""
        does = self.interception
        return "/".join(does.terminating.secret) if does is not None and does.terminating is not None else ""

    @property
    def beginning(self) -> Greeting:
        """How the connection begins that the server gets."""
        does = self.interception
        if does is None:
            return self.greeting
        if does.originating is None:
            return Greeting(False)
        called = self.greeting.server_name
        return Greeting(True, called or (self.sent.host.partition(":")[0] if does.http else ""))

    @property
    def chosen(self) -> str:
        """The protocol that is chosen of those which the client offers in TLS; empty when none is."""
        if not self.greeting.encrypted or not self.wire.offers:
            return ""
        does = self.interception
        if does is None:
            speaks = server_protocols(self.greeting.server_name)
        elif does.http:
            speaks = (H2, H1) if does.originating is not None else (H1, H2)
        else:
            speaks = ()
        return next((each for each in speaks if each in self.wire.offers), "")

    @property
    def arriving_protocol(self) -> str:
        """What the server is spoken to: what the client speaks, or, where Envoy begins TLS for requests, what the
        server would rather have."""
        does = self.interception
        if does is not None and does.http and does.originating is not None:
            return server_protocols(self.beginning.server_name)[0]
        return self.wire.speaks(self.chosen)

    @property
    def arriving_scheme(self) -> str:
        """Of a request in HTTP/2, which says it; empty in HTTP/1."""
        if self.arriving_protocol == H1:
            return ""
        return "https" if (self.beginning if self.read else self.greeting).encrypted else "http"

    @property
    def sent(self) -> HttpRequest:
        """What the client asks; any request where the flow is about none."""
        request = self.flow.request
        if isinstance(request, HttpRequest):
            return request
        assert isinstance(request, TlsRequest)
        return HttpRequest("GET", "/", "any", server_name=request.server_name, encrypted=request.encrypted)

    @property
    def arriving(self) -> HttpRequest:
        """The request as the server gets it when it is accepted."""
        request = self.sent
        if self.read:
            request = replace(request, path=judged_path(request.path).path)
        for direction in (Direction.EGRESS, Direction.INGRESS):
            if direction in self.request:
                request = request.after(self.request[direction].actions)
        return request

    def reasons(self) -> str:
        """Why, for people."""
        return "; ".join(f"{direction}: {side.reason}" for direction, side in self.request.items())


def _clashes(side: Judgement) -> bool:
    """True when rules of this direction need different proxies. No rule has denied it then."""
    redirects = any(each.matched and each.rule.redirects for each in side.considered)
    return side.verdict is Verdict.DENY and side.rule is None and redirects


def _on_this_node(endpoint: Endpoint | None) -> Endpoint | None:
    return endpoint if endpoint is not None and endpoint.local else None


def _sides(egress: Judgement | None, ingress: Judgement | None, here: list[Direction]) -> dict[Direction, Judgement]:
    both = {Direction.EGRESS: egress, Direction.INGRESS: ingress}
    return {direction: side for direction, side in both.items() if side is not None and direction in here}
