"""Which interfaces are pods' and which are nobody's. In a real kernel: tests/e2e/test_agent_unseen_pods.py."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from lockgate.agent.force.pod_guard import lonely, nobodys, pod_bridges, pod_names
from lockgate.policies.identity import endpoint_of
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.unseen import PodName
from lockgate.redirect.uplink import Interface
from lockgate.store import PodNetwork

PODS = PodNetwork((ip_network("10.244.1.0/24"), ip_network("fd00:1::/64")), interfaces=("ovn",))
CALICO = PodName("cali", numbered=True)
SET = PodName("ovn")


def interface(number: int, name: str, kind: str = "veth", *routes: str, master: int = 0) -> Interface:
    return Interface(number, name, kind=kind, routes=tuple(map(ip_network, routes)), master=master)


def at(found: Interface, ip: str) -> Endpoint:
    """An endpoint there."""
    workload = Workload(found.name, "default", (), ips=(ip_address(ip),))
    return replace(endpoint_of(workload), ifindex=found.ifindex, interface=found.name)


KNOWN = interface(2, "cali0123456789a", "veth", "10.244.1.2/32")
UNKNOWN = interface(3, "cali0123456789b", "veth", "10.244.1.3/32")
ROUTED = interface(4, "lab", "veth", "10.244.1.4/32", "fd00:1::4/128")
ELSEWHERE = interface(5, "vethother", "veth", "10.77.0.0/24")
NESTED = interface(6, "eth0", "veth", "0.0.0.0/0", "10.244.2.0/24")
BARE = interface(7, "veth0")
CARD = interface(8, "eth1", "", "192.0.2.0/24")
TUNNEL = interface(9, "flannel.1", "vxlan", "10.244.2.0/24")
PLUGINS = interface(10, "cni0", "bridge")
LED = interface(11, "mybr0", "bridge", "10.244.1.0/24")
ENGINES = interface(12, "docker0", "bridge", "172.17.0.0/16")
SHARED = interface(13, "br0", "bridge")
PORT = interface(14, "veth0123abcd", master=11)
OTHER_PORT = interface(15, "eth2", "", master=13)
NAMED = interface(16, "ovn-7", "veth", "10.99.0.1/32")
FOUND = (
    *(KNOWN, UNKNOWN, ROUTED, ELSEWHERE, NESTED, BARE, CARD, TUNNEL),
    *(PLUGINS, LED, ENGINES, SHARED, PORT, OTHER_PORT, NAMED),
)


def test_interfaces_of_pods_that_hang_on_no_bridge() -> None:
    assert lonely(PODS, FOUND, ()) == [KNOWN, UNKNOWN, ROUTED]
    assert lonely(PODS, FOUND, [CALICO, SET]) == [KNOWN, UNKNOWN, ROUTED, NAMED]


def test_names_are_learned_of_pods_that_are_known() -> None:
    """Not of who hangs on a bridge, where another table looks, nor of other endpoints."""
    assert pod_names(PODS, FOUND, []) == {SET}
    assert pod_names(PODS, FOUND, [at(KNOWN, "10.244.1.2"), at(PORT, "10.244.1.9"), at(ROUTED, "10.244.1.4")]) == {
        CALICO,
        SET,
    }
    assert pod_names(PODS, FOUND, [at(KNOWN, "10.99.0.1")]) == {SET}


def test_bridges_of_pods() -> None:
    assert pod_bridges(PODS, FOUND, []) == {"cni0", "mybr0"}
    port = interface(17, "veth99aabbcc", master=13)
    assert pod_bridges(PODS, (*FOUND, port), [at(port, "10.244.1.7")]) == {"cni0", "mybr0", "br0"}
    assert pod_bridges(PODS, (*FOUND, port), [at(port, "10.99.0.7")]) == {"cni0", "mybr0"}


def test_who_is_nobodys() -> None:
    """Cards, tunnels, uplinks of nested nodes, others' veths and bridges; not who has no route yet."""
    lo = 1
    others = {each.ifindex for each in (ELSEWHERE, NESTED, CARD, TUNNEL, ENGINES, SHARED, OTHER_PORT)}
    assert nobodys(PODS, FOUND, [CALICO, SET], frozenset()) == {lo, *others}
    assert nobodys(PODS, FOUND, [CALICO, SET], frozenset({LED.ifindex})) == {lo, *others, LED.ifindex}
    assert nobodys(PODS, FOUND, [], frozenset()) == {lo, *others, NAMED.ifindex}


@pytest.mark.parametrize("prefixes", [(), (ip_network("10.244.0.0/16"),)])
def test_tunnels_to_other_nodes_are_never_cut_off(prefixes: tuple[object, ...]) -> None:
    """Where there is no prefix, and where it is that of all nodes."""
    network = PodNetwork(tuple(ip_network(str(each)) for each in prefixes))
    assert {NESTED.ifindex, CARD.ifindex, TUNNEL.ifindex} <= nobodys(network, FOUND, [CALICO], frozenset())
