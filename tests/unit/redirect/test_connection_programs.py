"""What the programs remember of a connection (BPF_PROG_TEST_RUN)."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from lockgate.policies.endpoint_policy import (
    Protocol,
)
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel.tcx import Hook
from lockgate.redirect.map_changes import MapDelta
from lockgate.redirect.plan import Owner
from lockgate.redirect.proxy_sockets import Carried
from lockgate.redirect.reason import Reason
from lockgate.redirect.socket_diag import FoundSocket
from lockgate.tests.unit.redirect.programs import (
    ACK,
    CLIENT,
    FIN,
    OK,
    RST,
    SHOT,
    SYN,
    UNSPEC,
    WORLD,
    Kernel,
    Outcome,
    frame,
    fresh,
    ingress,
    ip,
    rule,
    tcp,
    udp,
)


def test_replies_pass_and_new_connections_the_other_way_do_not(kernel: Kernel) -> None:
    kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, 80), rule(CLIENT, 53, protocol=Protocol.UDP)))
    client, server = kernel.client, kernel.server
    port = next(fresh)

    def answer(number: int, segment: bytes) -> Outcome:
        return kernel.run(Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, client.ipv4, number, segment)))

    assert answer(6, tcp(80, port, SYN | ACK)).reason is Reason.POLICY
    assert answer(17, udp(53, port)).reason is Reason.POLICY
    assert kernel.send(frame(ip(client.ipv4, server.ipv4, 6, tcp(port, 80)))).reason is Reason.ALLOWED
    assert kernel.send(frame(ip(client.ipv4, server.ipv4, 17, udp(port, 53)))).reason is Reason.ALLOWED
    assert answer(6, tcp(80, port, SYN | ACK)).reason is Reason.ALLOWED
    assert answer(17, udp(53, port)).reason is Reason.ALLOWED
    assert answer(6, tcp(80, port, SYN)).reason is Reason.POLICY
    assert answer(6, tcp(80, port + 1, ACK)).reason is Reason.POLICY
    # A stricter policy is asked again, about the connection and not about the reply.
    kernel.enforce(client=ingress(), server=ingress(rule(CLIENT, 80)))
    assert answer(6, tcp(80, port, ACK)).reason is Reason.ALLOWED
    assert answer(17, udp(53, port)).reason is Reason.POLICY


def test_a_connection_remembers_which_ends_have_had_their_say(kernel: Kernel) -> None:
    kernel.enforce()
    client = kernel.client

    def busy(*packets: tuple[str, int]) -> bool:
        there = ip_address(f"198.51.100.{next(fresh) % 256}")
        for sender, flags in (("client", SYN), ("server", SYN | ACK), *packets):
            if sender == "client":
                outcome = kernel.send(frame(ip(client.ipv4, there, 6, tcp(5000, 80, flags))))
            else:
                packet = frame(ip(there, client.ipv4, 6, tcp(80, 5000, flags)))
                outcome = kernel.run(Hook.TO_POD, client.ifindex, packet, 0, kernel.server.ifindex)
            assert outcome.reason is Reason.ALLOWED
            kernel.enforce(client=ingress()) if sender == "client" else kernel.enforce()  # judged anew in between
        assert kernel.datapath.busy({ip_address("203.0.113.1")}) == frozenset()
        return there in kernel.datapath.busy({there, WORLD})

    assert busy()
    assert busy(("client", FIN | ACK))
    assert busy(("client", FIN | ACK), ("client", ACK), ("server", ACK))
    assert not busy(("client", FIN | ACK), ("server", FIN | ACK))
    assert not busy(("client", FIN | ACK), ("server", ACK), ("server", FIN | ACK), ("client", ACK))
    assert not busy(("server", RST))
    assert busy(("server", RST), ("client", SYN))


@pytest.mark.parametrize("peer", [WORLD, ip_address("2001:db8::9"), ip_address("8.8.8.8"), ip_address("fe00::1")])
def test_a_connection_is_whose_it_was_when_it_was_made(kernel: Kernel, peer: IPAddress) -> None:
    """Of addresses before and behind the endpoint's own: the greater one comes second in the map's key."""
    world, own = (9, kernel.client.ipv4) if peer.version == 4 else (10, kernel.client.ipv6)

    def sent(source: IPAddress, destination: IPAddress, sport: int, dport: int, flags: int) -> None:
        packet = frame(ip(source, destination, 6, tcp(sport, dport, flags)))
        out = source == own
        outcome = kernel.send(packet) if out else kernel.run(Hook.TO_POD, kernel.client.ifindex, packet, 0, 1)
        assert outcome.reason is Reason.ALLOWED

    def made_by(client: IPAddress, server: IPAddress, port: int) -> tuple[int, int] | None:
        carried = Carried(client, port, server, 80, True, FoundSocket(client.version, b""))
        return kernel.datapath.made_by([carried]).get(carried)

    for client, server in ((own, peer), (peer, own)):
        kernel.enforce()
        port, before = next(fresh), (CLIENT, world) if client == own else (world, CLIENT)
        assert made_by(client, server, port) is None
        sent(client, server, port, 80, SYN)
        assert made_by(client, server, port) == before
        kernel.datapath.readdress(MapDelta({ip_network(peer): Owner(4711)}, frozenset()))
        for flags in (ACK, SYN):  # judged anew, and by a packet that a pod could forge
            sent(client, server, port, 80, flags)
            assert made_by(client, server, port) == before
        sent(server, client, 80, port, RST | ACK)
        sent(client, server, port, 80, SYN)
        assert made_by(client, server, port) == ((CLIENT, 4711) if client == own else (4711, CLIENT))
        port = next(fresh)
        sent(client, server, port, 80, ACK)
        assert made_by(client, server, port) is None, "nobody has seen its beginning"
    kernel.enforce()


def test_a_connection_that_is_no_longer_allowed_is_reset(kernel: Kernel) -> None:
    """Envoy's listener gets the packet, and answers what it knows nothing of with a reset. A test run can find a
    listener and not give it anything, which counts as NO_PROXY; what is merely denied counts as POLICY."""
    usual = ingress(rule(CLIENT, 80), rule(CLIENT, 53, protocol=Protocol.UDP), rule(9, 80))
    client, server = kernel.client, kernel.server
    port = 0

    def packets(flags: int) -> list[tuple[Hook, int, bytes]]:
        there, back = tcp(port, 80, flags), tcp(80, port, flags | ACK)
        return [
            (Hook.FROM_POD, client.ifindex, frame(ip(client.ipv4, server.ipv4, 6, there))),
            (Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, client.ipv4, 6, back))),
            (Hook.FROM_UPLINK, 1, frame(ip(WORLD, server.ipv4, 6, there))),
            (Hook.FROM_POD, server.ifindex, frame(ip(server.ipv4, WORLD, 6, back))),
        ]

    for tightened in (ingress(), ingress(rule(CLIENT, 80, http=True), rule(9, 80, http=True))):
        kernel.enforce(server=usual)
        port = next(fresh)
        datagram = frame(ip(client.ipv4, server.ipv4, 17, udp(port, 53)))
        for flags in (SYN, ACK):
            assert {kernel.run(*each).reason for each in packets(flags)} <= {Reason.ALLOWED, None}
        assert kernel.send(datagram).reason is Reason.ALLOWED
        kernel.enforce(server=tightened)
        for each in packets(ACK):
            assert kernel.run(*each) == Outcome(SHOT, 0, Reason.NO_PROXY)
        # One reset for each of the two connections; after it there is nothing to be reset.
        assert [kernel.run(*each).action for each in packets(RST | ACK)] == [OK, SHOT, UNSPEC, SHOT]
        assert [kernel.run(*each).reason for each in packets(RST | ACK)] == 4 * [Reason.POLICY]
        assert kernel.send(datagram).reason is Reason.POLICY
        # What never was a connection is none that is reset.
        stranger = frame(ip(client.ipv4, server.ipv4, 6, tcp(next(fresh), 80, ACK)))
        expected = Reason.NO_PROXY if tightened.ingress.redirects else Reason.POLICY
        assert kernel.send(stranger).reason is expected
    kernel.enforce(server=usual)
    assert kernel.run(*packets(ACK)[2]) == Outcome(UNSPEC, server.ifindex << 16 | 0x400, None)


def test_the_nodes_own_resets_reach_both_ends(kernel: Kernel) -> None:
    kernel.enforce(server=ingress(rule(CLIENT, 80, http=True)))
    client, server = kernel.client, kernel.server
    for pod, source, destination in ((client, server.ipv4, client.ipv4), (server, client.ipv4, server.ipv4)):
        packet = frame(ip(source, destination, 6, tcp(next(fresh), next(fresh), RST | ACK)))
        assert kernel.run(Hook.TO_POD, pod.ifindex, packet).reason is Reason.ALLOWED
    assert kernel.run(Hook.TO_POD, server.ifindex, packet, came_from=client.ifindex).reason is Reason.POLICY
