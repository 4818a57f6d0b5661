"""Policies for the node itself on a live node: what its processes may do, and what reaches them."""

from __future__ import annotations

import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import pytest
from lockgate.agent.playground import Namespace
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import (
    CLOSED,
    DENIED,
    DROPPED,
    GLANCE,
    OK,
    PATIENCE,
    REFUSED,
    Line,
    LiveNode,
    fetch,
    live_node,
)
from lockgate.tests.e2e.udp_echo import UdpEcho

OPEN_IN, PODS_IN, SHUT_IN = 7001, 7002, 7003  # of the node: for the world, for a pod, for nobody
OPEN_OUT, SHUT_OUT = 7101, 7102  # of the world
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "7001", protocol: TCP}, {port: "7201", protocol: UDP}]}]
  - fromEndpoints: [{matchLabels: {role: frontend}}]
    toPorts: [{ports: [{port: "7002", protocol: TCP}]}]
  - fromEntities: [world]
    icmps: [{fields: [{type: EchoRequest, family: IPv4}, {type: EchoRequest, family: IPv6}]}]
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "7101", protocol: TCP}, {port: "7301", protocol: UDP}]}]
  - toEndpoints: [{matchLabels: {app: backend}}]
    toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made, ExitStack() as echoes:
        outside = made.ground.outside()
        for port in (OPEN_IN, PODS_IN, SHUT_IN):
            made.webs[f"node {port}"] = made.web_at(made.node, port)
        for port in (OPEN_OUT, SHUT_OUT):
            made.webs[f"outside {port}"] = made.web_at(outside, port)
        for where, port in ((made.node, 7201), (made.node, 7202), (outside, 7301), (outside, 7302)):
            echoes.enter_context(UdpEcho(where, port))
        config = made.folder / "config.yaml"
        config.write_text("node_labels: {role: edge}\n")
        made.start_agent("--config", config)
        made.until("the uplink is attached", lambda: made.status()["datapath"]["uplinks"] == 1)
        yield made


def uplink(family: int) -> str:
    return ("192.0.2.1", "2001:db8::1")[family]


def asks(where: Namespace, ip: object, port: int, patience: float = GLANCE) -> str:
    """Whether a UDP server answers."""
    kind = socket.AF_INET6 if ":" in str(ip) else socket.AF_INET
    with closing(netns.run_in(where.path, lambda: socket.socket(kind, socket.SOCK_DGRAM))) as asking:
        asking.settimeout(patience)
        asking.sendto(b"?", (str(ip), port))
        try:
            return OK if asking.recv(100) else CLOSED
        except TimeoutError:
            return DROPPED


def pings(where: Namespace, ip: str, patience: float = GLANCE) -> bool:
    """Whether an echo request is answered. The kernel sums up ICMPv6 itself."""
    v6 = ":" in ip
    request = struct.pack("!BBHHH", 128, 0, 0, 7, 1) if v6 else struct.pack("!BBHHH", 8, 0, 0xF7F7, 7, 1)
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with closing(netns.run_in(where.path, lambda: socket.socket(family, socket.SOCK_RAW, protocol))) as raw:
        raw.settimeout(patience)
        with suppress(OSError):  # what is dropped on its way out may be told at once
            raw.sendto(request, (ip, 0))
        try:
            while True:
                data = raw.recv(1000)
                kind = data[0] if v6 else data[20]
                if kind == (129 if v6 else 0):
                    return True
        except TimeoutError:
            return False


def get(where: Namespace, ip: object, port: int) -> str:
    return fetch(where, ip, port, patience=GLANCE)


def enforce(node: LiveNode) -> None:
    node.write("node", POLICY)
    node.until("it is enforced", lambda: policy_state(node) == "enforced")


def policy_state(node: LiveNode) -> str:
    entries = node.lockgate("policy", "list", "-o", "json").data
    found = [each for each in entries if each["policy"] == "node" and each["endpoints"] == ["reserved:host"]]
    return str(found[0]["state"]) if found else "absent"


@pytest.fixture(scope="module")
def policed(node: LiveNode) -> Iterator[LiveNode]:
    """With connections of both directions and both kinds from before the policy."""
    outside, where = node.ground.outside(), node.node
    assert fetch(outside, uplink(0), SHUT_IN) == OK, "no policy selects the node yet"
    assert fetch(where, outside.ips[1], SHUT_OUT) == OK
    lines = {
        "in": [Line(outside, uplink(family), OPEN_IN) for family in (0, 1)],
        "out": [Line(where, outside.ips[family], OPEN_OUT) for family in (0, 1)],
        "shut in": [Line(outside, uplink(family), SHUT_IN) for family in (0, 1)],
        "shut out": [Line(where, outside.ips[family], SHUT_OUT) for family in (0, 1)],
    }
    for line in (line for some in lines.values() for line in some):
        assert str(line.ask()) == OK
    enforce(node)
    said = {
        kind: {str(line.ask(patience=GLANCE if "shut" in kind else PATIENCE)) for line in some}
        for kind, some in lines.items()
    }
    for line in (line for some in lines.values() for line in some):
        line.__exit__(None, None, None)
    assert said["in"] == said["out"] == {OK}, "what the policy allows goes on, whoever opened it"
    assert (said["shut in"] | said["shut out"]) <= {DROPPED, CLOSED}
    yield node


@FAMILIES
class TestTheNode:
    def test_from_outside(self, policed: LiveNode, family: int) -> None:
        outside = policed.ground.outside()
        assert fetch(outside, uplink(family), OPEN_IN) == OK
        for port in (PODS_IN, SHUT_IN):
            assert get(outside, uplink(family), port) == DROPPED
        assert asks(outside, uplink(family), 7201, PATIENCE) == OK
        assert asks(outside, uplink(family), 7202) == DROPPED

    def test_to_the_outside(self, policed: LiveNode, family: int) -> None:
        there: IPAddress = policed.ground.outside().ips[family]
        assert fetch(policed.node, there, OPEN_OUT) == OK
        assert get(policed.node, there, SHUT_OUT) == DROPPED
        assert asks(policed.node, there, 7301, PATIENCE) == OK
        assert asks(policed.node, there, 7302) == DROPPED
        assert get(policed.node, there, 9) == DROPPED

    def test_its_pods(self, policed: LiveNode, family: int) -> None:
        own = ("10.200.0.1", "fd00:200::1")[family]
        assert fetch(policed.frontend, own, PODS_IN) == OK
        assert get(policed.frontend, own, OPEN_IN) == DROPPED
        assert get(policed.intruder, own, PODS_IN) == DROPPED
        assert fetch(policed.node, policed.backend.ips[family], 8080) == OK
        assert get(policed.node, policed.api.ips[family], 80) == DROPPED

    def test_itself(self, policed: LiveNode, family: int) -> None:
        assert fetch(policed.node, ("127.0.0.1", "::1")[family], SHUT_IN) == OK
        assert fetch(policed.node, uplink(family), SHUT_IN) == OK

    def test_what_passes_it_by(self, policed: LiveNode, family: int) -> None:
        """Pods' traffic, Envoy's included, is the pods' policies' business."""
        outside = policed.ground.outside()
        assert fetch(policed.frontend, policed.backend.ips[family], 8080) == OK
        assert fetch(policed.frontend, policed.api.ips[family], 80, "/api/v1/users") == OK
        assert fetch(policed.frontend, policed.api.ips[family], 80, "/") == DENIED
        assert fetch(policed.frontend, outside.ips[family], SHUT_OUT) == OK
        assert fetch(outside, policed.frontend.ips[family], 9) == REFUSED

    def test_errors_and_pings_find_their_way(self, policed: LiveNode, family: int) -> None:
        outside = policed.ground.outside()
        assert pings(outside, uplink(family), PATIENCE)
        assert not pings(policed.node, str(outside.ips[family])), "no egress rule for echo requests"
        # A refused connection is told, not left to time out.
        policed.webs["node 7001"].close()
        try:
            assert fetch(outside, uplink(family), OPEN_IN) == REFUSED
        finally:
            policed.webs["node 7001"] = policed.web_at(policed.node, OPEN_IN)

    def test_fragments_cannot_hide_a_port(self, policed: LiveNode, family: int) -> None:
        outside = policed.ground.outside()
        kind = (socket.AF_INET, socket.AF_INET6)[family]
        before = dropped(policed)
        with closing(netns.run_in(outside.path, lambda: socket.socket(kind, socket.SOCK_DGRAM))) as asking:
            asking.settimeout(GLANCE)
            asking.sendto(bytes(4000), (uplink(family), 7201))
            with pytest.raises(TimeoutError):
                asking.recv(100)
        assert dropped(policed) > before


def dropped(node: LiveNode) -> int:
    counters = node.lockgate("datapath", "status", "-o", "json").data["counters"]
    return sum(each["packets"] for each in counters if each["dropped"])


def test_pods_behind_the_nodes_address(policed: LiveNode) -> None:
    """What the node forwards with its own address (masquerade) was judged as the pod's."""
    outside = policed.ground.outside()
    with masquerading(policed):
        policed.webs[f"outside {SHUT_OUT}"].seen.clear()
        assert fetch(policed.frontend, outside.ips[0], SHUT_OUT) == OK
        assert policed.webs[f"outside {SHUT_OUT}"].clients() == {uplink(0)}
        assert get(policed.node, outside.ips[0], SHUT_OUT) == DROPPED


@contextmanager
def masquerading(node: LiveNode) -> Iterator[None]:
    rules = "table ip lg { chain post { type nat hook postrouting priority 100; ip saddr 10.200.0.0/16 masquerade; }; }"
    node.node.run(["nft", rules], check=True)
    try:
        yield
    finally:
        node.node.run(["nft", "delete table ip lg"], check=True)


def test_a_pod_opens_no_port_of_the_node_behind_its_address(policed: LiveNode) -> None:
    """By a datagram from that port: when the node's connection tracking has forgotten it, whoever got it would ask the
    node's own server and be taken for the answer."""
    outside = policed.ground.outside()

    def forget_soon() -> None:
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            Path("/proc/sys/net/netfilter", name).write_text("1")

    with masquerading(policed), ExitStack() as sockets:
        netns.run_in(policed.node.path, forget_soon)

        def bound(where: Namespace, port: int) -> socket.socket:
            made = netns.run_in(where.path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sockets.enter_context(closing(made)).bind(("0.0.0.0", port))
            made.settimeout(PATIENCE)
            return made

        accomplice = bound(outside, 7402)
        for port, answer in ((7203, b"an answer"), (7202, b"")):
            pod = bound(policed.intruder, port)
            pod.sendto(b"a question", (str(outside.ips[0]), 7402))
            data, sender = accomplice.recvfrom(100)
            assert (data, sender) == (b"a question", (uplink(0), port))
            if answer:
                accomplice.sendto(answer, sender)
                assert pod.recv(100) == answer
        time.sleep(2)
        accomplice.settimeout(GLANCE)
        accomplice.sendto(b"a question to the node", (uplink(0), 7202))
        with pytest.raises(TimeoutError):
            accomplice.recv(100)


def test_it_outlives_the_agent(policed: LiveNode) -> None:
    outside = policed.ground.outside()
    policed.end_agent(signal.SIGKILL)
    assert fetch(outside, uplink(0), OPEN_IN) == OK
    assert get(outside, uplink(1), SHUT_IN) == DROPPED
    policed.start_agent("--config", policed.folder / "config.yaml")
    assert fetch(outside, uplink(0), OPEN_IN) == OK
    assert get(policed.node, outside.ips[1], SHUT_OUT) == DROPPED


def test_without_the_policy_everything_is_open_again(policed: LiveNode) -> None:
    outside = policed.ground.outside()
    policed.write("node", POLICY.replace("role: edge", "role: core"))
    policed.becomes(OK, lambda: get(outside, uplink(0), SHUT_IN))
    policed.becomes(OK, lambda: get(policed.node, outside.ips[1], SHUT_OUT))
    assert fetch(policed.intruder, "10.200.0.1", PODS_IN) == OK
    enforce(policed)
    policed.becomes(DROPPED, lambda: get(outside, uplink(0), SHUT_IN))


def test_a_node_without_an_uplink_says_that_it_cannot(policed: LiveNode) -> None:
    config = policed.folder / "config.yaml"
    before = config.read_text()
    config.write_text(f"{before}uplinks: []\n")
    policed.end_agent()
    policed.start_agent("--config", config, ready=False)
    policed.until("it is told", lambda: any("no uplink to enforce it at" in each for each in policed.problems()))
    assert get(policed.intruder, "10.200.0.1", PODS_IN) == DROPPED, "its pods are judged at their interfaces"
    policed.write("node", POLICY.replace("role: edge", "role: core"))
    policed.until("nothing is wrong", policed.ok)
    config.write_text(before)
