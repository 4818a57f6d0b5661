"""The data path on a node of namespaces with a real Envoy: what is allowed, redirected and dropped, and restarts.

All of it with and without host routing.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from lockgate.agent.playground import Namespace
from lockgate.policies.endpoint_policy import DirectionPolicy, EndpointPolicy
from lockgate.redirect.kernel import netns
from lockgate.redirect.reason import Reason
from lockgate.tests.e2e.datapath_node import (
    GLANCE,
    L4,
    L7,
    PATIENCE,
    SHUT,
    USUAL,
    Node,
    Server,
    ask,
    connect,
    datagram,
    fetch,
    ingress,
    rule,
    tcp,
    udp,
    wait_for,
)


@pytest.fixture(scope="module", params=[False, True], ids=["stack", "straight"])
def module_node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("datapath"), host_routing=request.param)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(module_node: Node) -> Node:
    """The usual policy at the server, a running Envoy, an empty server log."""
    module_node.enforce(server=USUAL)
    if module_node.envoy is None:
        module_node.start_envoy()
    module_node.web.log.clear()
    return module_node


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("port", [L7, L4], ids=["redirected", "allowed"])
def test_server_sees_the_clients_own_address(node: Node, family: int, port: int) -> None:
    before = node.through_envoy()
    assert fetch(node.client, node.server.ips[family], port) == str(node.client.ips[family])
    assert node.through_envoy() - before == (1 if port == L7 else 0)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize(("pod", "port"), [("client", SHUT), ("stranger", L7), ("stranger", L4)])
def test_what_no_rule_allows_is_dropped(node: Node, pod: str, port: int, family: int) -> None:
    before = node.dropped(Reason.POLICY)
    with pytest.raises(TimeoutError):
        fetch(getattr(node, pod), node.server.ips[family], port, GLANCE)
    assert node.dropped(Reason.POLICY) > before
    assert node.web.log == []


def test_bulk_goes_both_ways(node: Node) -> None:
    body = os.urandom(3_000_000)
    for port in (L7, L4):
        with connect(node.client, node.server.ipv4, port) as connection:
            assert ask(connection, body) == body


def test_without_envoy_redirected_traffic_is_dropped_and_the_rest_flows(node: Node) -> None:
    with connect(node.client, node.server.ipv4, L7) as live:
        ask(live)
        node.stop_envoy()
        node.web.log.clear()
        with pytest.raises(ConnectionResetError):
            ask(live)
    before = node.dropped(Reason.NO_PROXY)
    for ip in node.server.ips:
        with pytest.raises(TimeoutError):
            fetch(node.client, ip, L7, GLANCE)
    assert node.dropped(Reason.NO_PROXY) > before
    assert node.web.log == []
    fetch(node.client, node.server.ipv4, L4)
    node.start_envoy()
    for ip in node.server.ips:
        fetch(node.client, ip, L7)


def test_a_client_behind_an_egress_policy(node: Node) -> None:
    """Egress of the client alone redirects; what it does not name is dropped at the client."""
    policy = EndpointPolicy(egress=DirectionPolicy(True, (rule("server", tcp(L7), http=True),)))
    node.enforce(client=policy)
    before = node.through_envoy()
    assert fetch(node.client, node.server.ipv4, L7) == str(node.client.ipv4)
    assert node.through_envoy() == before + 1
    with pytest.raises(TimeoutError):
        fetch(node.client, node.server.ipv4, L4, GLANCE)


def test_pods_and_the_node_reach_each_other(node: Node) -> None:
    own = Server(node.ground.node, 7000)
    try:
        for family, ip in enumerate(("10.200.0.1", "fd00:200::1")):
            assert fetch(node.client, ip, 7000) == str(node.client.ips[family])
            assert fetch(node.ground.node, node.server.ips[family], SHUT) == ip
    finally:
        own.close()


def test_datagrams(node: Node) -> None:
    for ip in node.server.ips:
        assert datagram(node.client, ip, L4, PATIENCE) == b"hello"
        node.web.log.clear()
        for port in (L7, SHUT):
            with pytest.raises(TimeoutError):
                datagram(node.client, ip, port, GLANCE)
    assert node.web.log == []


def test_an_answer_that_nobody_listens_comes_back(node: Node) -> None:
    node.enforce(server=ingress(rule("client", udp(5))))
    for ip in node.server.ips:
        with pytest.raises(ConnectionRefusedError):
            datagram(node.client, ip, 5, PATIENCE)


def test_ipv4_options_change_nothing_and_extension_headers_are_dropped(node: Node) -> None:
    nops = (socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * 8)
    assert datagram(node.client, node.server.ipv4, L4, PATIENCE, nops) == b"hello"
    node.web.log.clear()
    with pytest.raises(TimeoutError):
        datagram(node.client, node.server.ipv4, SHUT, GLANCE, nops)
    padding = (socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, b"\x00\x00\x01\x04\x00\x00\x00\x00")
    before = node.dropped(Reason.UNSUPPORTED)
    with pytest.raises(TimeoutError):
        datagram(node.client, node.server.ipv6, L4, GLANCE, padding)
    assert node.dropped(Reason.UNSUPPORTED) > before
    assert node.web.log == []


@pytest.mark.parametrize(
    ("source", "fragment", "reason"), [("stranger", 0, Reason.SPOOFED), ("client", 0x2000, Reason.FRAGMENT)]
)
def test_forged_sources_and_fragments_are_dropped(node: Node, source: str, fragment: int, reason: Reason) -> None:
    node.enforce()
    spoken_for = getattr(node, source).ipv4
    segment = struct.pack("!HHHH", 5000, L4, 12, 0) + b"evil"
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(segment), 7, fragment, 64, socket.IPPROTO_UDP, 0)
    packet += spoken_for.packed + node.server.ipv4.packed + segment

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (str(node.server.ipv4), 0))

    before = node.dropped(reason)
    netns.run_in(node.client.path, send)
    wait_for(lambda: node.dropped(reason) > before)
    assert node.web.log == []


def test_envoys_own_ports_are_out_of_reach(node: Node) -> None:
    for ip in ("10.200.0.1", "169.254.1.1", "fd00:200::1"):
        with pytest.raises(ConnectionRefusedError):
            connect(node.client, ip, 15001)


def test_an_endpoint_without_policy_is_mute(node: Node) -> None:
    late = node.ground.pod("late")
    try:
        node.inside(lambda: node.datapath.attach(node.endpoint(late)))
        for here, there in ((late, node.stranger), (node.client, late), (node.ground.node, late)):
            with pytest.raises(TimeoutError):
                connect(here, there.ipv4, L4, GLANCE)
        assert node.dropped(Reason.UNSYNCED) > 0
    finally:
        node.ground.remove(late)
    wait_for(lambda: late.ifindex not in node.datapath.attached())


def test_a_new_policy_judges_live_connections(node: Node) -> None:
    with connect(node.client, node.server.ipv4, L4) as live:
        ask(live)
        node.enforce(server=ingress(rule("client", tcp(L4)), rule(None, deny=True)))
        node.web.log.clear()
        with pytest.raises(ConnectionResetError):
            live.recv(1)  # it is told without saying anything
        assert node.web.log == []


def test_an_l7_rule_resets_connections_that_bypass_envoy_and_taking_it_away_resets_none(node: Node) -> None:
    node.enforce(server=ingress(rule("client", tcp(L7))))
    with connect(node.client, node.server.ipv4, L7) as bypassing:
        ask(bypassing)
        node.enforce(server=USUAL)
        with pytest.raises(ConnectionResetError):
            bypassing.recv(1)
    before = node.through_envoy()
    with connect(node.client, node.server.ipv4, L7) as proxied:
        ask(proxied)
        assert node.through_envoy() == before + 1
        node.enforce(server=ingress(rule("client", tcp(L7))))
        ask(proxied)


AGENT = """
import sys
from pathlib import Path
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.opening import Opening
Datapath.open(Opening(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.read()
"""


class Traffic(threading.Thread):
    """Requests without a pause, on one live connection and on new ones in turn."""

    def __init__(self, where: Namespace, ip: object, port: int) -> None:
        super().__init__(daemon=True)
        self._where, self._ip, self._port = where, ip, port
        self._stop_now = threading.Event()
        self.requests = 0
        self.failures: list[Exception] = []
        self.start()

    def run(self) -> None:
        with connect(self._where, self._ip, self._port) as live:
            while not self._stop_now.is_set():
                try:
                    ask(live)
                    fetch(self._where, self._ip, self._port)
                except Exception as error:
                    self.failures.append(error)
                    return
                self.requests += 2
                time.sleep(0.002)

    def finish(self) -> None:
        done = self.requests
        wait_for(lambda: self.requests > done + 10 or self.failures)
        self._stop_now.set()
        self.join()
        assert self.failures == []


def test_enforcement_outlives_a_killed_agent_and_the_next_one_takes_over_without_a_gap(node: Node) -> None:
    traffic = [Traffic(node.client, node.server.ips[port == L4], port) for port in (L7, L4)]
    node.datapath.close()
    command = node.ground.node.command([sys.executable, "-c", AGENT, node.pin_dir])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"ready\n"
        agent.send_signal(signal.SIGKILL)
    with pytest.raises(TimeoutError):
        fetch(node.stranger, node.server.ipv4, L4, GLANCE)
    for program in (node.pin_dir / "programs").iterdir():
        program.unlink()  # as if the next agent were a new version: it loads its own and swaps them in
    node.datapath = node.opened()
    assert node.datapath.attached() >= {pod.ifindex for pod in node.pods}
    node.enforce(server=USUAL)
    for each in traffic:
        each.finish()
    assert not any(str(node.stranger.ipv4) in line for line in node.web.log)


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_bridge_that_has_the_hardware_address_of_its_port(node: Node, family: int) -> None:
    """As one made by hand has of its first: then what is for the gateway is for the port itself."""
    port, ips = node.client.interface, node.client.ips

    def ip(*lines: str) -> None:
        for line in lines:
            node.ground.node.run(["ip", *line.split()], check=True)

    ip(f"link add br9 up address {_hardware_address(node, port)} type bridge", f"link set {port} master br9")
    ip("addr add 169.254.1.1/32 dev br9", "addr add fe80::1/64 dev br9 nodad")
    ip(*(f"-{each.version} route replace {each} dev br9" for each in ips))
    try:
        for path in (L7, L4):
            assert fetch(node.client, node.server.ips[family], path) == str(ips[family])
    finally:
        ip(f"link set {port} nomaster", "link del br9")
        ip(*(f"-{each.version} route replace {each} dev {port}" for each in ips))


def _hardware_address(node: Node, interface: str) -> str:
    shown = node.ground.node.run(["ip", "-o", "link", "show", interface], check=True).stdout
    return shown.partition("link/ether ")[2].split()[0]
