"""The node's own traffic over an uplink, run by the kernel on packets made here."""

from __future__ import annotations

from ipaddress import ip_address

from lockgate.policies.endpoint_policy import EndpointPolicy
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.reason import Reason
from lockgate.tests.unit.redirect.programs import (
    ACK,
    CLIENT,
    HOST,
    HOST_LINK,
    RST,
    SENT_MARK,
    SYN,
    UNSPEC,
    WORLD,
    Kernel,
    Outcome,
    egress,
    frame,
    fresh,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)

WORLD_IDENTITY = 9


def arrive(kernel: Kernel, source: IPAddress, protocol: int, payload: bytes, mark: int = 0, **more: int) -> str:
    """What an uplink does with a packet to the node."""
    packet = frame(ip(source, HOST, protocol, payload, **more))  # type: ignore[arg-type]
    return outcome(kernel, Hook.FROM_UPLINK, packet, mark)


def leave(kernel: Kernel, destination: IPAddress, protocol: int, payload: bytes, came_from: int = 0) -> str:
    """What it does with a packet of the node."""
    return outcome(kernel, Hook.TO_UPLINK, frame(ip(HOST, destination, protocol, payload)), 0, came_from)


def outcome(kernel: Kernel, hook: Hook, packet: bytes, mark: int, came_from: int = 0) -> str:
    found = kernel.run(hook, kernel.outside.ifindex, packet, mark, came_from)
    return "passes" if found.action == UNSPEC else str(found.reason.name if found.reason is not None else found.action)


def host(*, incoming: EndpointPolicy | None = None, outgoing: EndpointPolicy | None = None) -> EndpointPolicy:
    return EndpointPolicy((incoming or EndpointPolicy()).ingress, (outgoing or EndpointPolicy()).egress)


def test_nothing_is_judged_while_no_policy_selects_the_node(kernel: Kernel) -> None:
    kernel.enforce()
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 23)) == "passes"
    assert arrive(kernel, WORLD, 47, bytes(20)) == "passes"
    assert leave(kernel, WORLD, 6, tcp(next(fresh), 23)) == "passes"


def test_what_comes_to_the_node(kernel: Kernel) -> None:
    kernel.enforce(host=host(incoming=ingress(rule(WORLD_IDENTITY, 22), rule(CLIENT, 80))))
    port = next(fresh)
    assert arrive(kernel, WORLD, 6, tcp(port, 22)) == "passes"
    assert arrive(kernel, WORLD, 6, tcp(port, 22, ACK)) == "passes"
    assert leave(kernel, WORLD, 6, tcp(22, port, SYN | ACK)) == "passes"
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 23)) == Reason.POLICY.name
    assert arrive(kernel, WORLD, 17, udp(next(fresh), 22)) == Reason.POLICY.name
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 22), fragment=0x2000) == Reason.FRAGMENT.name
    assert arrive(kernel, WORLD, 47, bytes(20)) == Reason.UNSUPPORTED.name, "the default is deny"
    for extension in (0, 43, 44, 60):
        packet = frame(
            ip(ip_address("2001:db8::9"), HOST_LINK, extension, bytes([6]) + bytes(7) + tcp(next(fresh), 22))
        )
        assert outcome(kernel, Hook.FROM_UPLINK, packet, 0) == Reason.UNSUPPORTED.name
    # The default of the other direction is open.
    assert leave(kernel, WORLD, 6, tcp(next(fresh), 443)) == "passes"
    assert leave(kernel, WORLD, 47, bytes(20)) == "passes"


def test_a_frame_for_somebody_else_on_the_link_is_left_alone(kernel: Kernel) -> None:
    """As for a macvlan interface above this one: there it is judged. The node itself does not take it up here."""
    kernel.enforce(server=ingress(rule(WORLD_IDENTITY, 80, http=True)), host=host(incoming=ingress()))
    for there in (HOST, kernel.server.ipv4):
        packet = frame(ip(WORLD, there, 6, tcp(next(fresh), 80)))
        uplink = kernel.outside.ifindex
        assert kernel.run(Hook.FROM_UPLINK, uplink, packet, astray=True) == Outcome(UNSPEC, 0, None)
        assert kernel.run(Hook.FROM_UPLINK, uplink, packet).reason in (Reason.POLICY, Reason.NO_PROXY)


def test_over_a_tunnel(kernel: Kernel) -> None:
    """The same by the programs that look for where the packet begins; without any header before it: test_uplinks."""
    kernel.enforce(
        server=ingress(rule(WORLD_IDENTITY, 80, http=True), rule(WORLD_IDENTITY, 81)),
        host=host(incoming=ingress(rule(WORLD_IDENTITY, 22)), outgoing=egress(rule(WORLD_IDENTITY, 443))),
    )

    def passes(
        hook: Hook, source: IPAddress, destination: IPAddress, payload: bytes, mark: int = 0, **more: int
    ) -> str:
        packet = frame(ip(source, destination, 6, payload, **more))  # type: ignore[arg-type]
        return outcome(kernel, hook, packet, mark)

    assert passes(Hook.FROM_TUNNEL, WORLD, HOST, tcp(next(fresh), 22)) == "passes"
    assert passes(Hook.FROM_TUNNEL, WORLD, HOST, tcp(next(fresh), 23)) == Reason.POLICY.name
    assert passes(Hook.FROM_TUNNEL, WORLD, HOST, tcp(next(fresh), 22), fragment=0x2000) == Reason.FRAGMENT.name
    assert passes(Hook.FROM_TUNNEL, kernel.client.ipv4, HOST, tcp(next(fresh), 22)) == Reason.SPOOFED.name
    assert passes(Hook.FROM_TUNNEL, WORLD, HOST, tcp(next(fresh), 23), SENT_MARK) == "passes", "judged before"
    assert passes(Hook.FROM_TUNNEL, WORLD, kernel.server.ipv4, tcp(next(fresh), 80)) == Reason.NO_PROXY.name
    assert passes(Hook.FROM_TUNNEL, WORLD, kernel.server.ipv4, tcp(next(fresh), 81)) == "passes"
    assert passes(Hook.FROM_TUNNEL, WORLD, kernel.server.ipv4, tcp(next(fresh), 82)) == Reason.POLICY.name
    assert passes(Hook.TO_TUNNEL, HOST, WORLD, tcp(next(fresh), 443)) == "passes"
    assert passes(Hook.TO_TUNNEL, HOST, WORLD, tcp(next(fresh), 444)) == Reason.POLICY.name


def test_who_claims_to_be_a_pod_or_the_node(kernel: Kernel) -> None:
    kernel.enforce(host=host(incoming=ingress(rule(CLIENT, 80))))
    for source in (kernel.client.ipv4, HOST):
        assert arrive(kernel, source, 6, tcp(next(fresh), 80)) == Reason.SPOOFED.name
    # Over a bridge it comes with the mark that from_pod has left.
    sent = kernel.send(frame(ip(kernel.client.ipv4, HOST, 6, tcp(port := next(fresh), 80))))
    assert (sent.reason, sent.mark) == (Reason.ALLOWED, kernel.client.ifindex << 16 | SENT_MARK)
    assert arrive(kernel, kernel.client.ipv4, 6, tcp(port, 80), sent.mark) == "passes"
    assert kernel.send(frame(ip(kernel.client.ipv4, HOST, 6, tcp(next(fresh), 81)))).reason is Reason.POLICY


def test_what_the_node_sends(kernel: Kernel) -> None:
    kernel.enforce(host=host(outgoing=egress(rule(WORLD_IDENTITY, 443))))
    port = next(fresh)
    assert leave(kernel, WORLD, 6, tcp(port, 443)) == "passes"
    assert arrive(kernel, WORLD, 6, tcp(443, port, SYN | ACK)) == "passes"
    assert leave(kernel, WORLD, 6, tcp(next(fresh), 444)) == Reason.POLICY.name
    assert leave(kernel, WORLD, 47, bytes(20)) == Reason.UNSUPPORTED.name
    assert leave(kernel, WORLD, 6, tcp(next(fresh), 444, RST)) == "passes", "how it refuses"
    assert leave(kernel, kernel.server.ipv4, 6, tcp(next(fresh), 444)) == "passes", "its interface judges"
    # A pod's, with the node's address; and the answer.
    pod = kernel.client.ifindex
    assert leave(kernel, WORLD, 6, tcp(port := next(fresh), 444), came_from=pod) == "passes"
    assert arrive(kernel, WORLD, 6, tcp(444, port, SYN | ACK)) == "passes"
    kernel.enforce(host=host(incoming=ingress(), outgoing=egress()))
    assert arrive(kernel, WORLD, 6, tcp(444, port, ACK)) == "passes", "also by another policy"


def test_a_denied_port_leaves_the_rest_open(kernel: Kernel) -> None:
    closed = rule(WORLD_IDENTITY, 23, deny=True)
    incoming = ingress(closed)
    kernel.enforce(host=EndpointPolicy(type(incoming.ingress)(False, (closed,))))
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 23)) == Reason.POLICY.name
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 24)) == "passes"
    assert arrive(kernel, WORLD, 47, bytes(20)) == "passes"
    assert arrive(kernel, WORLD, 6, tcp(next(fresh), 24), fragment=0x2000) == Reason.FRAGMENT.name
