"""Which live connections a change of the plan ends."""

from __future__ import annotations

import socket
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from lockgate.policies.endpoint_policy import (
    DirectionPolicy,
    EndpointPolicy,
    HttpRule,
    HttpRules,
    PortSpan,
    Protocol,
    ResolvedRule,
    RuleOrigin,
)
from lockgate.policies.workload import Endpoint, IPAddress, Workload
from lockgate.redirect.connections import Concern, LiveConnection
from lockgate.redirect.layout import packed
from lockgate.redirect.map_changes import diff
from lockgate.redirect.plan import GROUP_ENDPOINT, HOST, DatapathPlan
from lockgate.redirect.planner import plan
from lockgate.redirect.revocation import end, end_accepted, revoked, segment

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
CLIENT, SERVER = 70001, 70002
OURS, WORLD, NODE = map(ip_address, ("10.0.0.1", "192.0.2.9", "10.0.0.254"))
ADDRESS = ip_address("10.0.0.2")
OPEN = EndpointPolicy()
DIRECT = LiveConnection(OURS, 40000, ADDRESS, 80, 80, False, 7, 8)
PROXIED = replace(DIRECT, proxied=True)
MASKED = replace(DIRECT, client=NODE, client_interface=0, made_by=9)
FROM_WORLD = replace(DIRECT, client=WORLD, client_interface=0)


def ingress(*peers: int, http: bool = False) -> EndpointPolicy:
    l7 = HttpRules((HttpRule(),)) if http else None
    rule = ResolvedRule(ORIGIN, False, frozenset(peers), (PortSpan(Protocol.TCP, 80, 80),), l7)
    return EndpointPolicy(ingress=DirectionPolicy(True, (rule,)))


def planned(server: EndpointPolicy, identity: int = CLIENT, world: int = 9) -> DatapathPlan:
    ends = [
        (Endpoint(Workload("client", "default", ()), identity, (OURS,), 7), OPEN),
        (Endpoint(Workload("server", "default", ()), SERVER, (ADDRESS,), 8), server),
    ]
    return plan(ends, {ip_network("0.0.0.0/0"): 9, ip_network("192.0.2.0/24"): world, ip_network(NODE): 1})


GROUP = GROUP_ENDPOINT | 4711
NODE = ip_address("10.0.0.254")


@pytest.mark.parametrize(
    ("client", "server", "interfaces"),
    [(OURS, NODE, (0, GROUP)), (ip_address("127.0.0.1"), ip_address("127.0.0.1"), (0, GROUP))],
    ids=["a pod's", "over loopback"],
)
def test_of_processes_of_the_node(client: IPAddress, server: IPAddress, interfaces: tuple[int, int]) -> None:
    """They have no address by which they could be found."""
    service = Workload("service", "default", (), cgroup="/a.service")

    def of(*peers: int) -> DatapathPlan:
        ends = [
            (Endpoint(Workload("client", "default", ()), CLIENT, (OURS,), 7), OPEN),
            (Endpoint(service, SERVER, (), GROUP), ingress(*peers)),
        ]
        return plan(ends, {ip_network("0.0.0.0/0"): 9, ip_network(NODE): HOST})

    live = LiveConnection(client, 40000, server, 80, 80, False, *interfaces)
    assert over_after(of(CLIENT, HOST), of(), live) == [live]
    assert over_after(of(), of(CLIENT, HOST), live) == []
    assert over_after(of(CLIENT, HOST), of(CLIENT, HOST, 9), live) == []


def over_after(before: DatapathPlan, after: DatapathPlan, *live: LiveConnection) -> list[LiveConnection]:
    concern = Concern.of(diff(before, after))
    touched = [
        each
        for each in live
        if concern.touches(map(packed, (each.client, each.server)), (each.client_interface, each.server_interface))
    ]
    return list(revoked(touched, after))


@pytest.mark.parametrize(
    ("before", "after", "over"),
    [
        (planned(OPEN), planned(ingress(CLIENT, 9)), []),
        (planned(OPEN), planned(ingress(9)), [DIRECT, PROXIED]),
        (planned(OPEN), planned(ingress(CLIENT)), [FROM_WORLD]),
        (planned(ingress(CLIENT, 9)), planned(ingress(CLIENT, 9, http=True)), [DIRECT, FROM_WORLD]),
        (planned(ingress(CLIENT, 9, http=True)), planned(ingress(CLIENT, 9)), []),
        (planned(ingress(CLIENT, 9)), planned(OPEN), []),
        # Others are the peers now; the policy is the same.
        (planned(ingress(CLIENT, 9)), planned(ingress(CLIENT, 9), identity=70003), [DIRECT, PROXIED]),
        (planned(ingress(CLIENT, 9)), planned(ingress(CLIENT, 9), world=11), [FROM_WORLD]),
        # Nothing that concerns them changes, whatever they are.
        (planned(ingress()), planned(ingress()), []),
    ],
)
def test_what_is_over(before: DatapathPlan, after: DatapathPlan, over: list[LiveConnection]) -> None:
    assert over_after(before, after, DIRECT, PROXIED, FROM_WORLD) == over


def test_who_was_given_the_nodes_address_is_judged_as_who_it_was() -> None:
    """The node itself may everything."""
    for after, over in ((ingress(CLIENT, 1), [MASKED]), (ingress(9, 1, http=True), [MASKED]), (ingress(9, 1), [])):
        assert over_after(planned(OPEN), planned(after), MASKED, replace(MASKED, made_by=1)) == over


def test_the_service_counts_and_not_the_port() -> None:
    """Of a connection that the kernel has seen from its reply on, say."""
    change = planned(OPEN), planned(ingress(CLIENT))
    assert over_after(*change, replace(DIRECT, service=81))
    assert not over_after(*change, replace(DIRECT, server_port=81))


def test_who_is_not_concerned_is_not_judged() -> None:
    change = planned(OPEN), planned(ingress())
    elsewhere = replace(DIRECT, client=WORLD, client_interface=0, server=ip_address("10.0.0.9"), server_interface=9)
    assert not over_after(*change, elsewhere)
    assert Concern.of(diff(*change)).interfaces == {8}
    wide = Concern.of(diff(planned(OPEN), planned(OPEN, world=11)))
    assert wide.touches([b"anybody"], [99])


def test_a_segment_is_well_formed() -> None:
    for source, destination in (((OURS, 1), (ADDRESS, 2)), ((ip_address("fd00::1"), 1), (ip_address("fd00::2"), 2))):
        packet = segment(source, destination)
        tcp, pseudo = packet[-20:], source[0].packed + destination[0].packed + bytes((0, 0, 0, 20, 0, 0, 0, 6))
        total = sum(int.from_bytes((pseudo + tcp)[at : at + 2], "big") for at in range(0, len(pseudo) + 20, 2))
        assert total % 0xFFFF == 0
        assert (tcp[:4], tcp[13]) == (b"\0\1\0\2", 0x10)


def test_the_nodes_own_sockets_are_closed() -> None:
    for address in ("127.0.0.1", "::1"):
        with socket.create_server(
            (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
        ) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection((address, port)) as client, listener.accept()[0] as server:
                here, mine = ip_address(address), client.getsockname()[1]
                end([LiveConnection(here, mine, here, port, port, True)])
                for each in (client, server):
                    each.settimeout(5)
                    with pytest.raises(ConnectionError):
                        each.recv(1)


def test_who_listens_for_others_is_let_be() -> None:
    """Its connection is over, which the kernel's table of connections is not told at once."""
    for address in ("127.0.0.1", "::1"):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as listener:
            port, here = listener.getsockname()[1], ip_address(address)
            end([LiveConnection(here, 40000, here, port, port, True)])
            end_accepted([(here, 40000, here, port)])
            with socket.create_connection((address, port)):
                pass


def test_a_socket_for_both_families_is_closed() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port, here = listener.getsockname()[1], ip_address("127.0.0.1")
        with socket.create_connection(("127.0.0.1", port)) as client, listener.accept()[0] as server:
            end_accepted([(here, client.getsockname()[1], here, port)])
            server.settimeout(5)
            with pytest.raises(ConnectionError):
                server.recv(1)
