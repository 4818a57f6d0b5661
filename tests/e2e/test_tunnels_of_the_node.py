"""A tunnel that ends at the node takes what anybody wraps in UDP: what a pod wraps would come out as from anybody."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
import yaml
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import NODE_IPV4, NODE_IPV6, Outside
from lockgate.policies.workload import IPAddress
from lockgate.tests.e2e.live_node import LiveNode, live_node
from lockgate.tests.e2e.wire import UDP, Wire, ip, udp

TUNNELS = (4789, 8472)  # VXLAN over IPv4, and over IPv6
ELSEWHERE = ip_address("10.201.0.7")  # a pod on another node
NODE = ((NODE_IPV4, "192.0.2.1", "169.254.1.1"), (NODE_IPV6, "2001:db8::1", "fe80::1"))
OTHER_NODE = ip_address("192.0.2.40"), ip_address("2001:db8::40")
OPEN = 5000
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: remote}}]
    toPorts: [{ports: [{port: "5000", protocol: UDP}]}]
"""


class Ends:
    """Who sends, and what the backend gets."""

    def __init__(self, node: LiveNode, outside: Outside) -> None:
        self.node = node
        self.intruder, self.backend = Wire(node.intruder, node.node), Wire(node.backend, node.node)
        self.outside = Wire(outside, node.node)
        self._hardware = [address_of(node, f"vxlan{family}") for family in (0, 1)]

    def wrapped(self, source: IPAddress, there: IPAddress, mark: bytes) -> bytes:
        """A datagram of the pod elsewhere to the backend, in a tunnel's packet."""
        backend = self.node.backend.ipv4
        inner = ip(ELSEWHERE, backend, UDP, udp(ELSEWHERE, backend, 4000, OPEN, mark))
        family = int(there.version == 6)
        frame = self._hardware[family] + b"\x02\0\0\0\0\x07" + b"\x08\0" + inner
        head = b"\x08\0\0\0" + b"\0\0\x07\0"  # RFC 7348: a number follows, 7
        return ip(source, there, UDP, udp(source, there, 4000, TUNNELS[family], head + frame))

    def dropped(self) -> int:
        counters = ask(self.node.run_dir, "/v1/datapath")["counters"]
        return sum(each["packets"] for each in counters if each["reason"] == "unsupported")

    def close(self) -> None:
        for wire in (self.intruder, self.backend, self.outside):
            wire.close()


def address_of(node: LiveNode, interface: str) -> bytes:
    (link,) = json.loads(node.node.run(["ip", "-j", "link", "show", interface], check=True).stdout)
    return bytes.fromhex(link["address"].replace(":", ""))


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    with live_node(start=False) as node:
        outside = node.ground.outside()
        for path in node.policies.iterdir():
            path.unlink()
        node.write("backend", POLICY)
        entries = yaml.safe_load(node.ground.workloads_yaml())["workloads"]
        remote = {"name": "remote", "labels": {"app": "remote"}, "ips": [str(ELSEWHERE)]}
        for address in OTHER_NODE:
            outside.add_address(address)
        nodes = [{"name": "other", "ips": [str(each) for each in OTHER_NODE]}]
        node.replace(node.workloads, yaml.safe_dump({"workloads": [*entries, remote], "nodes": nodes}))
        node.start_agent()
        for family, port in enumerate(TUNNELS):
            name = f"vxlan{family}"
            link = ["ip", "link", "add", name, "type", "vxlan", "id", "7", "dstport", str(port)]
            node.node.run([*link, "remote", str(outside.ips[family])], check=True)
            node.node.run(["ip", "link", "set", name, "up"], check=True)
        made = Ends(node, outside)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
class TestTunnels:
    def test_what_a_pod_sends_into_one_does_not_come_out(self, ends: Ends, family: int) -> None:
        source = ends.node.intruder.ips[family]
        before, mark = ends.dropped(), os.urandom(16)
        for there in NODE[family]:
            for _ in range(2):
                ends.intruder.send(ends.wrapped(source, ip_address(there), mark))
        ends.node.until("they are dropped", lambda: ends.dropped() >= before + 2 * len(NODE[family]))
        assert not [frame for frame in ends.backend.received() if mark in frame]

    def test_nor_out_of_one_of_another_node(self, ends: Ends, family: int) -> None:
        source = ends.node.intruder.ips[family]
        before, mark = ends.dropped(), os.urandom(16)
        for _ in range(2):
            ends.intruder.send(ends.wrapped(source, OTHER_NODE[family], mark))
        ends.node.until("they are dropped", lambda: ends.dropped() >= before + 2)
        assert not [frame for frame in ends.outside.received() if mark in frame]

    def test_the_network_beyond_is_believed(self, ends: Ends, family: int) -> None:
        """As with any address of elsewhere. It shows, too, that what is wrapped so comes out."""
        mark, outside = os.urandom(16), ends.node.ground.outside().ips[family]
        ends.outside.send(ends.wrapped(outside, ip_address(NODE[family][1]), mark))
        ends.node.until("it comes", lambda: any(mark in frame for frame in ends.backend.received()))
