"""The programs judge as `judge` does, and say so (BPF_PROG_TEST_RUN: every byte of a packet under control)."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lockgate.policies.endpoint_policy import (
    Direction,
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
)
from lockgate.policies.verdict import Judgement, Verdict, judge
from lockgate.policies.workload import IPAddress
from lockgate.redirect import layout
from lockgate.redirect.drop_log import DropLog
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.plan import DatapathPlan
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    ACK,
    CLIENT,
    ENVOY_MARK,
    HOST,
    OK,
    ORIGIN,
    SENT_MARK,
    SERVER,
    SHOT,
    TURNED_MARK,
    WORLD,
    Kernel,
    Outcome,
    both,
    egress,
    frame,
    fresh,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)

NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
ports = st.sampled_from([1, 80, 81, 8080])
spans = st.builds(
    lambda protocol, one, other: PortSpan(protocol, min(one, other), max(one, other)),
    st.sampled_from(list(NUMBERS)),
    ports,
    ports,
)
rules = st.builds(
    lambda deny, http, peers, ports: ResolvedRule(
        ORIGIN, deny, peers, ports, HttpRules((HttpRule(),)) if http and not deny else None
    ),
    st.booleans(),
    st.booleans(),
    st.none() | st.frozensets(st.sampled_from([CLIENT, SERVER, 9]), max_size=2),
    st.none() | st.lists(spans, max_size=2).map(tuple),
)
directions = st.builds(DirectionPolicy, st.booleans(), st.lists(rules, max_size=3).map(tuple))


def lacks_a_proxy(half: Judgement) -> bool:
    """True when the denial is for want of a proxy that takes the protocol, and not a rule's or the default's."""
    redirects = any(each.matched and each.rule.redirects for each in half.considered)
    return half.verdict is Verdict.DENY and half.rule is None and redirects


@settings(max_examples=150, deadline=None)
@given(directions, directions, st.sampled_from(list(NUMBERS)), ports, st.sampled_from([4, 6]))
def test_the_program_does_what_judge_says(
    kernel: Kernel, egress: DirectionPolicy, server: DirectionPolicy, protocol: Protocol, port: int, version: int
) -> None:
    wanted = kernel.enforce(EndpointPolicy(egress=egress), EndpointPolicy(ingress=server))
    source, destination = both(kernel, version)
    sport = next(fresh)
    segment = tcp(sport, port) if protocol is Protocol.TCP else udp(sport, port)
    outcome = kernel.send(frame(ip(source, destination, NUMBERS[protocol], segment)))

    halves = [judge(egress, SERVER, protocol, port), judge(server, CLIENT, protocol, port)]
    if any(half.verdict is Verdict.DENY and not lacks_a_proxy(half) for half in halves):
        expected = Reason.POLICY
    elif any(half.redirected or lacks_a_proxy(half) for half in halves):
        # No Envoy listens in this namespace.
        expected = Reason.NO_PROXY if protocol is Protocol.TCP else Reason.NOT_TCP
    else:
        expected = Reason.ALLOWED
    assert outcome.reason is expected
    assert outcome.action == (OK if expected is Reason.ALLOWED else SHOT)
    model = wanted.judge(source, destination, protocol, port).verdict.name
    assert model == {Reason.POLICY: "DENY", Reason.ALLOWED: "ALLOW"}.get(expected, "REDIRECT")


@pytest.mark.parametrize("version", [4, 6])
def test_a_drop_leaves_a_record_and_what_passes_none(kernel: Kernel, version: int) -> None:
    client, server = both(kernel, version)
    kernel.enforce(egress(rule(None, 80)))
    with closing(DropLog(kernel.pin_dir)) as log:
        before = max((each.at for each in log.read()), default=0)
        port = next(fresh)
        assert kernel.send(frame(ip(client, server, 6, tcp(port, 80)))).reason is Reason.ALLOWED
        assert log.read(before) == []
        assert kernel.send(frame(ip(client, server, 6, tcp(port, 81)))).reason is Reason.POLICY
        (found,) = log.read(before)
        assert (found.source, found.source_port, found.destination, found.destination_port) == (
            client,
            port,
            server,
            81,
        )
        assert (found.protocol, found.reason, found.direction) == (6, Reason.POLICY, Direction.EGRESS)
        assert found.ifindex == kernel.client.ifindex
        assert log.read(found.at) == []
        for _ in range(2 * layout.DROPS_KEPT):
            kernel.send(frame(ip(client, server, 6, tcp(next(fresh), 81))))
        kept = log.read(found.at)
        assert kept == sorted(kept)
        assert len(kept) >= layout.DROPS_KEPT, "of each CPU the last ones"


def test_the_mark_names_the_endpoint_that_was_asked(kernel: Kernel) -> None:
    kernel.enforce()
    client, server = kernel.client, kernel.server
    packet = frame(ip(client.ipv4, server.ipv4, 6, tcp(next(fresh), 80)))
    judged = kernel.send(packet)
    assert judged == Outcome(OK, server.ifindex << 16 | 0x400, Reason.ALLOWED)
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, judged.mark, client.ifindex).reason is Reason.ALLOWED
    assert kernel.run(Hook.TO_POD, client.ifindex, packet, judged.mark, client.ifindex).reason is Reason.ADDRESS
    # Also when the connection is known: somebody on a shared link pretends to be the server.
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, 0, client.ifindex).reason is Reason.ALLOWED
    data = frame(ip(client.ipv4, server.ipv4, 6, tcp(5, 80, ACK)))
    assert kernel.run(Hook.TO_POD, client.ifindex, data, 0, client.ifindex).reason is Reason.ADDRESS
    for there in (HOST, WORLD):
        sent = kernel.send(frame(ip(client.ipv4, there, 6, tcp(next(fresh), 80))))
        assert sent == Outcome(OK, kernel.client.ifindex << 16 | SENT_MARK, Reason.ALLOWED)


def test_what_reaches_a_pod_from_elsewhere(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(9, 80), rule(9, 443, http=True), rule(CLIENT, 443, http=True)))
    server = kernel.server

    def arrive(source: IPAddress, port: int, mark: int = 0, came_from: int = 0) -> Reason | None:
        packet = frame(ip(source, server.ipv4, 6, tcp(next(fresh), port)))
        return kernel.run(Hook.TO_POD, server.ifindex, packet, mark, came_from).reason

    uplink = kernel.client.ifindex
    assert arrive(HOST, 9999) is Reason.ALLOWED
    assert arrive(HOST, 9999, came_from=uplink) is Reason.SPOOFED
    assert arrive(WORLD, 80, came_from=uplink) is Reason.ALLOWED
    assert arrive(WORLD, 81, came_from=uplink) is Reason.POLICY
    assert arrive(WORLD, 443, came_from=uplink) is Reason.REDIRECTED
    assert arrive(WORLD, 443, TURNED_MARK, came_from=uplink) is Reason.UNPROXIED, "it went by lo, and nobody was there"
    assert arrive(kernel.client.ipv4, 443) is Reason.UNPROXIED
    assert arrive(kernel.client.ipv4, 443, ENVOY_MARK) is Reason.ALLOWED
    assert arrive(kernel.client.ipv4, 9999, ENVOY_MARK) is Reason.POLICY


def test_an_unknown_endpoint_is_mute(kernel: Kernel) -> None:
    packet = frame(ip(kernel.client.ipv4, kernel.server.ipv4, 17, udp(next(fresh), 80)))
    kernel.enforce()
    assert kernel.send(packet).reason is Reason.ALLOWED
    kernel.datapath.apply(DatapathPlan())
    assert kernel.send(packet).reason is Reason.UNSYNCED
    assert kernel.run(Hook.TO_POD, kernel.server.ifindex, packet).reason is Reason.UNSYNCED


def test_directions_are_counted_from_the_endpoint(kernel: Kernel) -> None:
    kernel.enforce()
    before = {each.direction: each.packets for each in kernel.datapath.counters() if each.reason is Reason.ALLOWED}
    kernel.send(frame(ip(kernel.client.ipv4, kernel.server.ipv4, 17, udp(next(fresh), 80))))
    after = {each.direction: each.packets for each in kernel.datapath.counters() if each.reason is Reason.ALLOWED}
    assert after == {Direction.EGRESS: before[Direction.EGRESS] + 1, Direction.INGRESS: before[Direction.INGRESS]}
