"""The three that must agree about a flow: the verdict function, the kernel's programs and Envoy."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from lockgate.agent.force.applied import Applied
from lockgate.agent.force.applier import Applier
from lockgate.agent.force.kafka_side import KafkaSide
from lockgate.agent.force.tls_side import TlsSide
from lockgate.envoy.config.identity_filter import Ipcache
from lockgate.envoy.config.kafka_listener import KafkaListener
from lockgate.envoy.config.tls_listener import TlsListener
from lockgate.policies import Direction, Protocol, Verdict, World
from lockgate.policies.workload import IPAddress
from lockgate.redirect.reason import Reason
from lockgate.tests.agreement.case import HOSTS, Setting, parsed
from lockgate.tests.agreement.envoy import Envoy, running_envoy
from lockgate.tests.agreement.exchange import CLOSED, Answer, Arrived, Sent, Wire, cookie_of
from lockgate.tests.agreement.expectation import ACCEPTED, DENIED, Expectation
from lockgate.tests.agreement.ground import ENVOY_MARK, ENVOY_PORT, TLS_PORT, ground
from lockgate.tests.agreement.kernel import TURNED_MARK, UPLINK, Kernel, Outcome, source_ports
from lockgate.tests.agreement.packets import Packet
from lockgate.tests.agreement.tls import SERVER
from lockgate.xds import policed_by, tls_policed_by

_JUDGED, _SENT = 0x400, 0xC00  # marks of what from_pod has allowed: to a server here, and to anybody else


@dataclass
class Tally:
    """What was compared."""

    flows: Counter[str] = field(default_factory=Counter)  # by what the verdict function says
    protocols: Counter[str] = field(default_factory=Counter)
    packets: int = 0  # run through the programs
    requests: Counter[str] = field(default_factory=Counter)  # by Envoy's answer
    changed: int = 0  # requests whose headers a policy changed on the way
    awaited: int = 0  # TLS of which only what comes in it is judged
    spoken: Counter[str] = field(default_factory=Counter)  # requests by how they were sent and how they arrived
    grpc: int = 0  # denials told to gRPC


class Node:
    """A node without pods. `enforce` a setting, then `compare` flows under it."""

    def __init__(self, devices: Mapping[str, int], kernel: Kernel, envoy: Envoy) -> None:
        self.devices = devices
        self.tally = Tally()
        self._kernel = kernel
        self._envoy = envoy
        self._applier = Applier(
            kernel.datapath,
            envoy.xds,
            ENVOY_PORT,
            envoy.runs,
            TlsSide(TlsListener(), envoy.folder / "requests.jsonl", Ipcache(*kernel.datapath.ipcache)),
            KafkaSide(KafkaListener(), envoy.folder / "requests.jsonl", Ipcache(*kernel.datapath.ipcache)),
        )

    async def enforce(self, setting: Setting) -> tuple[World, list[str]]:
        """Brings the setting into force as the agent does; what is not applied is a disagreement.

        Raises InvalidCase, and RuntimeError when Envoy does not answer.
        """
        world = setting.world(self.devices)
        applied = await self._apply(setting)
        wrong = [f"Envoy: refuses the compiled policies: {applied.nack}"] if applied.nack else []
        wrong += [f"Envoy: cannot carry out {origin}: {why}" for origin, why in applied.unexpressed]
        wrong += [f"agent: {problem}" for problem in applied.problems]
        return world, wrong

    async def _apply(self, setting: Setting) -> Applied:
        """As the agent does: each world is made from the one before, and names are learned when everything else is in
        force. What is judged by is made at once and from nothing."""
        self._applier.names_taken()
        applied = await self._applier.apply(setting.world(self.devices, previous=self._applier.world, names={}))
        learned: dict[IPAddress, frozenset[str]] = {}
        for name, addresses in setting.names.items():
            for address in map(ip_address, addresses):
                learned[address] = learned.get(address, frozenset()) | {name}
        if learned and not applied.nack and not await self._applier.readdress(learned):
            self._applier.names_taken()
            applied = await self._applier.apply(setting.world(self.devices, previous=self._applier.world))
        if applied.unconfirmed:
            raise RuntimeError(f"{'; '.join(applied.problems)}; its log ends:\n{self._envoy.log}")
        return applied

    async def compare(self, world: World, data: dict[str, Any]) -> list[str]:
        """What disagrees about one flow: a sentence for each, with the disagreeing one in front."""
        expected = Expectation.of(world, *parsed(data))
        self.tally.flows[expected.word] += 1
        self.tally.protocols[expected.flow.protocol] += 1
        self._kernel.forget()
        found = [*self._leaving(expected), *self._entering(expected), *self._arriving(expected)]
        if expected.awaits_request:
            asking = expected.asking(world)
            if asking.interception != expected.interception:
                found.append(
                    f"verdict: TLS is taken up as {expected.interception}, with a request {asking.interception}"
                )
            expected = asking
            self.tally.awaited += 1
        if expected.flow.request is not None and self._envoy_decides(world, expected):
            found += await self._asked(expected, data.get("http", {}).get("headers", {}))
        return found

    def _leaving(self, expected: Expectation) -> list[str]:
        """The first packet as the client's pod sends it, then as the server's pod gets it, then the reply."""
        if expected.client is None:
            return []
        client, server = expected.client.ifindex, expected.server.ifindex if expected.server else 0
        packet = self._packet(expected)
        seen = self._kernel.leave(client, packet)
        what = "the client's first packet"
        if expected.denied:
            return _differ(what, seen, Outcome(False, Reason.POLICY))
        if expected.redirected:
            return _differ(what, seen, _handed_over(expected)) + self._handed_over_for_real(client, expected)
        found = _differ(
            what, seen, Outcome(True, Reason.ALLOWED, _judged_mark(server) if server else client << 16 | _SENT)
        )
        if server:
            passed = self._kernel.arrive(server, packet, mark=seen.mark, came_from=client)
            found += _differ("its arrival at the server", passed, Outcome(True, Reason.ALLOWED, seen.mark))
        if packet.has_reply:
            self.tally.packets += 1
            if server:
                replied, mark = self._kernel.leave(server, packet.reply), _judged_mark(client)
            else:
                came_from = 0 if expected.destination in HOSTS else UPLINK
                replied, mark = self._kernel.arrive(client, packet.reply, came_from=came_from), 0
            found += _differ("the reply", replied, Outcome(True, Reason.ALLOWED, mark))
        return found

    def _handed_over_for_real(self, client: int, expected: Expectation) -> list[str]:
        """The one thing that a test run cannot do is to assign a socket: for that a packet really arrives."""
        if not expected.listener:
            return []
        reason = self._kernel.send(client, self._packet(expected))
        if reason is Reason.REDIRECTED:
            return []
        return [f"kernel: a packet really sent was counted as {reason.name if reason else 'nothing'}, not REDIRECTED"]

    def _entering(self, expected: Expectation) -> list[str]:
        """The first packet from elsewhere as it comes in through an uplink."""
        if expected.server is None or expected.client is not None or expected.from_host:
            return []
        seen = self._kernel.enter(self._packet(expected))
        what = "a first packet from an uplink"
        if expected.denied:
            return _differ(what, seen, Outcome(False, Reason.POLICY))
        if expected.redirected:
            return _differ(what, seen, _handed_over(expected))
        return _differ(what, seen, Outcome(True, None, _judged_mark(expected.server.ifindex)))

    def _arriving(self, expected: Expectation) -> list[str]:
        """The first packet as it reaches the server's pod from elsewhere, or round from_pod, or from a proxy."""
        if expected.server is None:
            return []
        server = expected.server.ifindex
        came_from = 0 if expected.from_host else expected.client.ifindex if expected.client else UPLINK
        packet = self._packet(expected)
        seen = self._kernel.arrive(server, packet, came_from=came_from)
        what = "a first packet at the server that from_pod has not seen"
        if expected.denied:
            return _differ(what, seen, Outcome(False, Reason.POLICY))
        if not expected.redirected:
            return _differ(what, seen, Outcome(True, Reason.ALLOWED))
        if expected.flow.protocol is Protocol.TCP and came_from:
            found = _differ(what, seen, Outcome(False, Reason.REDIRECTED, TURNED_MARK, expected.listener))
            found += _differ(
                "what came round the proxy", self._kernel.turn(packet), _handed_over(expected, TURNED_MARK)
            )
        else:
            found = _differ(what, seen, Outcome(False, Reason.UNPROXIED))
        passed = self._kernel.arrive(server, self._packet(expected), mark=ENVOY_MARK, came_from=0)
        wanted = Outcome(True, Reason.ALLOWED, ENVOY_MARK, expected.listener)
        return found + _differ("the proxy's first packet to the server", passed, wanted)

    def _packet(self, expected: Expectation) -> Packet:
        self.tally.packets += 1
        flow = expected.flow
        return Packet(expected.source, expected.destination, flow.protocol, next(source_ports), flow.port)

    def _envoy_decides(self, world: World, expected: Expectation) -> bool:
        """True when Envoy's answer is the verdict: where the kernel sends the connection to it, and also where every
        direction that does not allow is one that Envoy polices, for its policy must be right on its own."""
        if expected.from_host:
            return False  # the node's own goes past every proxy: who comes to Envoy with its address is somebody else
        if expected.redirected:
            return expected.listener in (ENVOY_PORT, TLS_PORT)
        here = [(end, world.policy_of(end)) for end in (expected.client, expected.server) if end is not None]
        pairs = tls_policed_by(here) if expected.asked == TLS_PORT else policed_by(here)
        ends = {Direction.EGRESS: expected.client, Direction.INGRESS: expected.server}
        policed = {
            direction for direction, end in ends.items() if end is not None and (end.identity, direction) in pairs
        }
        allowed = {direction for direction, side in expected.request.items() if side.verdict is Verdict.ALLOW}
        return bool(policed) and not expected.refused_path and policed | allowed >= expected.request.keys()

    async def _asked(self, expected: Expectation, headers: Mapping[str, str | list[str]]) -> list[str]:
        """The request, really sent through Envoy."""
        request, listener = expected.sent, expected.asked
        sent = Sent(request.method, request.path, request.host, wire_headers(headers), expected.greeting, expected.wire)
        try:
            answer = await self._envoy.ask(expected.source, expected.destination, expected.flow.port, sent, listener)
        except (OSError, EOFError, TimeoutError) as error:
            return [f"Envoy: no answer to {request} ({error!r})"]
        begun = "TLS" if expected.greeting.encrypted else "plain"
        tallied = f"{answer.status or 'closed'}"
        self.tally.requests[tallied if listener == ENVOY_PORT else f"{begun} {tallied}"] += 1
        # A connection may be closed for what it begins with, before there is a request to be answered.
        closed = answer.status == CLOSED and expected.status != ACCEPTED
        if answer.status != expected.status and not closed:
            return [f"Envoy: {answer.status} to {request}, expected {expected.status} ({expected.reasons()})"]
        if closed:
            return []
        spoken = f"{'TLS ' if expected.greeting.encrypted else ''}{expected.wire.speaks(answer.chosen)}"
        if answer.arrived is None:
            self.tally.spoken[f"{spoken} refused"] += 1
            self.tally.grpc += answer.grpc is not None
            return _refused(expected, answer)
        self.tally.spoken[f"{spoken} as {answer.arrived.protocol}"] += 1
        self.tally.changed += expected.arriving.headers != request.headers
        return [*_carried(expected, answer), *_changed(expected, answer.arrived)]


def wire_headers(headers: Mapping[str, str | list[str]]) -> list[tuple[str, str]]:
    """A flow's headers line by line."""
    return [
        (name, value)
        for name, values in headers.items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _judged_mark(server: int) -> int:
    return server << 16 | _JUDGED


def _handed_over(expected: Expectation, mark: int = 0) -> Outcome:
    """A test run of a redirect: everything is written down, and then there is no socket to be had."""
    protocol, listener = expected.flow.protocol, expected.listener
    if protocol not in (Protocol.TCP, Protocol.UDP) or (protocol is Protocol.UDP and not listener):
        return Outcome(False, Reason.NOT_TCP, mark)
    return Outcome(False, Reason.NO_PROXY, mark, listener)


def _refused(expected: Expectation, answer: Answer) -> list[str]:
    """How the client is told that its request went nowhere."""
    if answer.status != DENIED:
        return []
    grpc = expected.sent.header("content-type") == "application/grpc"
    said = answer.body if answer.grpc is None else answer.grpc
    wanted = "" if expected.sent.method == "HEAD" else "Access denied" if grpc else "Access denied\r\n"
    if grpc is (answer.grpc is not None) and said == wanted:
        return []
    return [f"Envoy: told {'gRPC' if answer.grpc is not None else 'HTTP'} '{said}' in answer to {expected.sent}"]


def _carried(expected: Expectation, answer: Answer) -> list[str]:
    """TLS as the client and as the server saw it."""
    found = []
    if answer.chosen != expected.chosen:
        found.append(f"Envoy: the protocol '{answer.chosen}' was chosen for the client, expected '{expected.chosen}'")
    shown = (expected.shown or SERVER) if expected.greeting.encrypted else ""
    if answer.shown != shown:
        found.append(f"Envoy: the client saw the certificate of '{answer.shown}', expected '{shown}'")
    began = expected.beginning._replace(server_name=expected.beginning.server_name.lower())
    if answer.began is None or answer.began._replace(server_name=answer.began.server_name.lower()) != began:
        found.append(f"Envoy: to the server the connection began with {answer.began}, expected {began}")
    return found


def _changed(expected: Expectation, arrived: Arrived) -> list[str]:
    """A request that passes must arrive as it was sent, but for what the policies do to it."""
    wanted = expected.arriving
    first = (expected.arriving_protocol, expected.arriving_scheme, f"{wanted.method} {wanted.path}")
    found = [] if arrived[:3] == first else [f"Envoy: {first} arrived as {arrived[:3]}"]
    crumbled = expected.wire is Wire.HTTP2 and not expected.read
    headers, seen = {"host": wanted.host, **wanted.headers}, _joined(arrived.fields, crumbled=crumbled)
    if seen.get("content-length") == "0":
        headers.setdefault("content-length", "0")  # Envoy says so on behalf of a POST that has no body
    if headers != seen:
        found.append(f"Envoy: the headers {headers} arrived as {seen}")
    return found


def _joined(fields: Iterable[tuple[str, str]], *, crumbled: bool) -> dict[str, str]:
    """Repeated fields mean their values joined, https://www.rfc-editor.org/rfc/rfc9110#section-5.3; a cookie may have
    come in crumbs."""
    found: dict[str, list[str]] = {}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    cookie = cookie_of(found.pop("cookie", [])) if crumbled else {}
    return {name: ",".join(values) for name, values in found.items()} | cookie


def _differ(what: str, seen: Outcome, expected: Outcome) -> list[str]:
    return [] if seen == expected else [f"kernel: {what}: {seen}, expected {expected}"]


@asynccontextmanager
async def running_node() -> AsyncIterator[Node]:
    """A node in a namespace of its own, which the calling thread lives in meanwhile."""
    with ground() as devices:
        kernel = await asyncio.to_thread(Kernel, devices)  # netlink wants a thread without a running loop
        try:
            async with running_envoy(Ipcache(*kernel.datapath.ipcache)) as envoy:
                node = Node(devices, kernel, envoy)
                await node.enforce(Setting())
                await envoy.wait_until_listening()
                yield node
        finally:
            await asyncio.to_thread(kernel.close)
