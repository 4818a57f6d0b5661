"""Ports that a container engine publishes: who asks for them goes through Envoy where a rule by request covers them."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns, pinned_link
from lockgate.redirect.routing import MARK_UPSTREAM
from lockgate.tests.e2e.container_ground import Capture, Ground, container_ground
from lockgate.tests.e2e.engine import KINDS, Inside
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, Line, Web, fetch
from lockgate.tests.e2e.tls_pods import Authority, TlsClient, TlsWeb
from lockgate.tests.e2e.wire import ACK, FIN, PSH, RST, TCP, ip, tcp

NODE, HTTP, PLAIN = "192.0.2.1", 18080, 18081
IP_TRANSPARENT = 19
OTHER = ip_address("192.0.2.77")
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: published, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: published}}
  ingress:
  - PEER
    toPorts:
    - ports: [{port: "8081", protocol: TCP}]
    - ports: [{port: "8080", protocol: TCP}]RULES
"""
RULES = '\n      rules: {http: [{path: "/open"}]}'
PEER = 'fromCIDR: [192.0.2.9/32, "2001:db8::9/128"]'
POLICED = POLICY.replace("PEER", PEER).replace("RULES", RULES)
OPEN = POLICY.replace("PEER", PEER).replace("RULES", "")
CLOSED_TO_IT = POLICY.replace("PEER", "fromCIDR: [203.0.113.0/24]").replace("RULES", RULES)
PODS = POLICY.replace("PEER", "fromEndpoints: [{matchLabels: {app: asks}}]").replace("RULES", RULES)


EDGE = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress: [{fromEntities: [world], toPorts: [{ports: [{port: "%d", protocol: TCP}]}]}]
"""
NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: tls}}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "443", protocol: TCP}], serverNames: [a.example.com]}]
"""


@pytest.fixture(scope="module", params=KINDS)
def engine_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with container_ground(request.param) as made:
        made.node.write("published", POLICED)
        made.start_agent()
        made.node.ground.outside().add_address(OTHER)
        yield made


@pytest.fixture
def ground(engine_ground: Ground) -> Iterator[Ground]:
    """At the end of each test nothing may have reached the node's own server at the container's port."""
    with closing(Web(engine_ground.node.node, 8080)) as own:
        yield engine_ground
        assert own.seen == []
    say(engine_ground, POLICED)
    engine_ground.clear()


@pytest.fixture
def outside(ground: Ground) -> Outside:
    return ground.node.ground.outside()


def publish(ground: Ground, *options: object) -> Inside:
    container = ground.engine.container("published", "--label", "app=published", *published(), *options)
    ground.serve(container)
    ground.known("default/published")
    ground.node.becomes(OK, lambda: ask(ground, "/open", patience=GLANCE))
    return container


def published() -> tuple[str, ...]:
    return "-p", f"{HTTP}:8080", "-p", f"{PLAIN}:8081"


def ask(ground: Ground, path: str, port: int = HTTP, patience: float = 3 * GLANCE) -> str:
    return fetch(ground.node.ground.outside(), NODE, port, path, patience=patience)


def say(ground: Ground, policy: str) -> None:
    """The policy, when it is in force."""
    node = ground.node
    before = node.status()["agent"]["revision"]
    if (node.policies / "published.yaml").read_text() != policy:
        node.write("published", policy)
        node.until("it is in force", lambda: node.ok() and node.status()["agent"]["revision"] > before)


def test_requests_from_outside(ground: Ground, outside: Outside) -> None:
    publish(ground)
    assert ask(ground, "/shut") == DENIED
    assert ask(ground, "/any", PLAIN) == OK
    with Line(outside, NODE, HTTP) as line:
        assert [str(line.ask(path)) for path in ("/open", "/shut", "/open")] == [OK, DENIED, OK]
    me = str(outside.ips[0])
    assert set(ground.seen()) == {(me, "/any"), (me, "/open")}
    denied = ground.node.lockgate("flows", "--verdict", "denied", "-o", "json").out
    assert '"/shut"' in denied and "default/published" in denied and me in denied


def test_who_is_not_allowed(ground: Ground, outside: Outside) -> None:
    publish(ground)
    ground.webs[0].seen.clear()
    for port in (HTTP, PLAIN):
        with pytest.raises(TimeoutError):
            Line(outside, NODE, port, 3 * GLANCE, source=OTHER)
    assert ground.seen() == []


def test_much_of_it(ground: Ground, outside: Outside) -> None:
    """Many bytes each way, in segments of every size, with the answers' checksums right."""
    publish(ground)
    path = "/open"
    body = bytes(range(256)) * 40_000

    def talk() -> bytes:
        with socket.create_connection((NODE, HTTP), 20) as made:
            made.sendall(
                b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                % (path.encode(), len(body))
            )
            made.sendall(body)
            return b"".join(iter(lambda: made.recv(65536), b""))

    assert netns.run_in(outside.path, talk).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("chain", ["raw", "input"])
def test_with_other_rules_on_the_machine(ground: Ground, chain: str) -> None:
    """Docker from 28 on drops what does not come over the bridge before it is translated; a host's own firewall lets in
    what comes over lo, and drops what it does not know."""
    engine = ground.engine
    container = publish(ground)
    bridge = engine.run(["ip", "-o", "route", "get", container.ip]).decode().split(" dev ")[1].split()[0]
    rules = {
        "raw": [["raw", "PREROUTING", "-d", f"{container.ip}/32", "!", "-i", bridge, "-j", "DROP"]],
        "input": [
            ["filter", "INPUT", "-i", "lo", "-j", "ACCEPT"],
            ["filter", "INPUT", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"],
            ["filter", "INPUT", "-j", "DROP"],
        ],
    }[chain]
    try:
        for table, *rule in rules:
            engine.run(["iptables", "-t", table, "-A", *rule])
        assert ask(ground, "/open") == OK
        assert ask(ground, "/shut") == DENIED
        assert ask(ground, "/any", PLAIN) == OK
    finally:
        for table, *rule in rules:
            engine.run(["iptables", "-t", table, "-D", *rule])


def test_what_the_machines_rules_forbid_stays_forbidden(ground: Ground, outside: Outside) -> None:
    publish(ground)
    rule = ["FORWARD", "-s", f"{outside.ips[0]}", "-j", "DROP"]
    ground.engine.run(["iptables", "-I", *rule])
    try:
        assert ask(ground, "/open") == DROPPED
    finally:
        ground.engine.run(["iptables", "-D", *rule])
    assert ask(ground, "/open") == OK


def test_from_the_node_and_its_pods(ground: Ground) -> None:
    """A process of the node is let in everywhere; a pod is judged like everybody else."""
    node = ground.node
    container = publish(ground)
    assert fetch(node.node, NODE, HTTP, "/shut", patience=3 * GLANCE) == OK
    pod, stranger = (node.ground.pod(name, labels={"app": name}) for name in ("asks", "stranger"))
    try:
        node.list_pods()
        say(ground, PODS)
        node.becomes(OK, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        ground.webs[0].seen.clear()
        assert fetch(pod, NODE, HTTP, "/open", patience=3 * GLANCE) == OK
        assert fetch(pod, NODE, HTTP, "/shut", patience=3 * GLANCE) == DENIED
        assert fetch(stranger, NODE, HTTP, "/open", patience=GLANCE) == DROPPED
        assert ground.seen() == [(str(pod.ipv4), "/open")]
    finally:
        for each in (pod, stranger):
            node.remove(each)
        node.list_pods()


def test_what_a_proxy_asks_is_not_led_elsewhere(ground: Ground, outside: Outside) -> None:
    """A proxy that took the node for the one that was asked would be led to the container, of which it has judged
    nothing. To the kernel the test's own socket is a proxy's."""
    container = publish(ground)
    ground.webs[0].seen.clear()

    def ask_as_proxy(address: str, port: int) -> bytes:
        with socket.socket() as proxy:
            proxy.settimeout(3 * GLANCE)
            proxy.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
            proxy.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_UPSTREAM)
            proxy.bind((str(outside.ips[0]), 0))
            proxy.connect((address, port))
            proxy.sendall(b"GET /shut HTTP/1.1\r\nHost: x\r\n\r\n")
            return proxy.recv(12)

    with pytest.raises(TimeoutError):
        netns.run_in(ground.node.node.path, lambda: ask_as_proxy(NODE, HTTP))
    assert ground.seen() == []
    assert netns.run_in(ground.node.node.path, lambda: ask_as_proxy(container.ip, 8080)) == b"HTTP/1.1 200"
    assert netns.run_in(ground.node.node.path, lambda: ask_as_proxy(NODE, PLAIN)) == b"HTTP/1.1 200"


def test_a_pod_with_a_rule_by_request_about_the_node(ground: Ground) -> None:
    """Envoy has the pod's connection to the node, and to no other; the container is not reached by it."""
    node = ground.node
    container = publish(ground)
    pod = node.ground.pod("asks", labels={"app": "asks"})
    try:
        node.list_pods()
        say(ground, PODS)
        node.becomes(OK, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        node.write("asks", ASKS.replace("world", "host, world").replace('"80"', f'"{HTTP}"').replace("/open", "/.*"))
        node.becomes(DROPPED, lambda: fetch(pod, container.ip, 8080, "/open", patience=GLANCE))
        ground.webs[0].seen.clear()
        assert fetch(pod, NODE, HTTP, "/shut", patience=3 * GLANCE) != OK
        assert ground.seen() == []
    finally:
        (node.policies / "asks.yaml").unlink(missing_ok=True)
        node.remove(pod)
        node.list_pods()


def test_from_another_network_of_the_engine(ground: Ground) -> None:
    """Docker lets nothing pass; Podman gives who asks the node's address, and nobody knows who it is."""
    engine = ground.engine
    publish(ground)
    engine.docker("network", "create", "beyond")
    try:
        there = cast(Namespace, engine.container("beyond", "--network", "beyond", "--label", "app=asks"))
        ground.known("default/beyond")
        say(ground, PODS)
        ground.webs[0].seen.clear()
        assert [fetch(there, NODE, HTTP, path, patience=GLANCE) for path in ("/open", "/shut")] == [DROPPED, DROPPED]
        assert ground.seen() == []
    finally:
        engine.docker("rm", "-f", "beyond")
        engine.docker("network", "rm", "beyond")


def test_a_rule_by_server_name(ground: Ground, outside: Outside) -> None:
    node, authority = ground.node, Authority("test")
    container = ground.engine.container("tls", "--label", "app=tls", "-p", "18443:443")
    certificate = authority.issue("a.example.com", "b.example.com")
    ground.known("default/tls")
    node.write("tls", NAMES)
    with closing(TlsWeb(cast(Namespace, container), 443, certificate, node.folder)) as web:
        client = TlsClient(authority)
        node.becomes(OK, lambda: client.fetch(outside, NODE, 18443, "a.example.com", patience=GLANCE))
        accepted = web.accepted
        assert client.fetch(outside, NODE, 18443, "b.example.com") == CLOSED
        assert web.accepted == accepted
        assert web.clients() == {str(outside.ips[0])}
    (node.policies / "tls.yaml").unlink()


def test_where_a_policy_selects_the_node(ground: Ground, outside: Outside) -> None:
    """It is asked for the published port, the container's for its own."""
    node = ground.node
    publish(ground)
    node.end_agent()
    ground.start_agent(more="node_labels: {role: edge}\n")
    try:
        node.write("node", EDGE % HTTP)
        node.becomes(DROPPED, lambda: ask(ground, "/any", PLAIN, patience=GLANCE))
        assert [ask(ground, path) for path in ("/open", "/shut")] == [OK, DENIED]
        with Line(outside, NODE, HTTP) as line:
            assert [str(line.ask(path)) for path in ("/open", "/shut", "/open")] == [OK, DENIED, OK]
        node.write("node", EDGE % PLAIN)
        node.becomes(OK, lambda: ask(ground, "/any", PLAIN, patience=GLANCE))
        assert ask(ground, "/open", patience=GLANCE) == DROPPED
    finally:
        (node.policies / "node.yaml").unlink()
        node.end_agent()
        ground.start_agent()


def test_a_connection_from_before_the_rule(ground: Ground, outside: Outside) -> None:
    """It ends; who comes back comes through Envoy."""
    publish(ground)
    say(ground, OPEN)
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/shut")) == OK
        say(ground, POLICED)
        ground.webs[0].seen.clear()
        assert str(line.ask("/shut")) == CLOSED
    assert ask(ground, "/shut") == DENIED
    assert ask(ground, "/open") == OK
    assert {path for _, path in ground.seen()} == {"/open"}


@pytest.mark.parametrize("policy", [OPEN, POLICED], ids=["past Envoy", "through Envoy"])
def test_one_that_is_not_allowed_any_more(ground: Ground, outside: Outside, policy: str) -> None:
    publish(ground)
    say(ground, policy)
    ground.node.becomes(OK, lambda: ask(ground, "/open"))
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        say(ground, CLOSED_TO_IT)
        assert str(line.ask("/open")) == CLOSED
    assert ask(ground, "/open") == DROPPED


def test_loosening_ends_nothing(ground: Ground, outside: Outside) -> None:
    publish(ground)
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        say(ground, OPEN)
        assert str(line.ask("/open")) == OK
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))


def test_a_port_in_other_hands(ground: Ground) -> None:
    """The container goes, another one is published there."""
    engine = ground.engine
    publish(ground)
    engine.docker("rm", "-f", "published")
    for web in ground.webs:
        web.close()
    ground.webs.clear()
    assert ask(ground, "/open") != OK
    placeholder = engine.container("placeholder")  # has the address
    ground.known("default/placeholder")
    second = publish(ground)
    assert second.ip != placeholder.ip
    assert ask(ground, "/shut") == DENIED
    engine.docker("rm", "-f", "published")
    free = engine.container("free", *published())
    ground.serve(free)
    ground.known("default/free")
    ground.node.becomes(OK, lambda: ask(ground, "/shut", patience=GLANCE))


def test_envoy_is_replaced(ground: Ground, outside: Outside) -> None:
    node = ground.node
    publish(ground)
    with Line(outside, NODE, HTTP) as line:
        assert str(line.ask("/open")) == OK
        assert node.lockgate("envoy", "restart").status == 0
        assert [ask(ground, path) for path in ("/open", "/shut")] == [OK, DENIED]
        assert str(line.ask("/open")) in (OK, CLOSED), "it may have been told to come anew"


def test_nobody_listens(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    envoy, supervisor = node.envoy_pid(), node.supervisor_pid()
    node.end_agent(signal.SIGKILL)
    for pid in (supervisor, envoy):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    node.becomes(DROPPED, lambda: ask(ground, "/open", patience=GLANCE))
    ground.webs[0].seen.clear()
    for path in ("/open", "/shut"):
        assert ask(ground, path, patience=GLANCE) == DROPPED
    assert ask(ground, "/any", PLAIN) == OK
    assert ground.webs[0].seen == []
    ground.start_agent()
    node.becomes(OK, lambda: ask(ground, "/open", patience=GLANCE))


def test_no_agent_runs(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    node.end_agent(signal.SIGKILL)
    assert ask(ground, "/open") == OK
    assert ask(ground, "/shut") == DENIED
    ground.start_agent()
    assert ask(ground, "/open") == OK
    assert ask(ground, "/shut") == DENIED


def test_without_the_program_at_lo_it_is_dropped(ground: Ground) -> None:
    node = ground.node
    publish(ground)
    pins = node.lockgate("datapath", "status", "-o", "json").data["pin_dir"]

    netns.run_in(node.node.path, lambda: pinned_link.remove(Path(pins) / "links" / "1-from_loopback"))
    ground.webs[0].seen.clear()
    assert ask(ground, "/open") == DROPPED
    assert ground.seen() == []
    node.end_agent()
    ground.start_agent()
    assert ask(ground, "/open") == OK


def test_ports_that_conntrack_gives_away(ground: Ground, outside: Outside) -> None:
    """To the container the client's own connection and Envoy's differ by their ports. Where they would not, conntrack
    changes one of them."""
    publish(ground)
    node = ground.node.node
    kept = node.run(["sysctl", "-n", "net.ipv4.ip_local_port_range"]).stdout.split()
    only = 40001
    node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={only} {only}"], check=True)

    def line(port: int) -> socket.socket:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(5)
        made.bind((str(outside.ips[0]), port))
        made.connect((NODE, HTTP))
        return made

    def got(made: socket.socket) -> bytes:
        made.sendall(b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
        return made.recv(12)

    try:
        for ports in ([only], [only + 1, only]):  # Envoy's own is the later one, then the earlier one
            made = [netns.run_in(outside.path, partial(line, ports[0]))]
            assert got(made[0]) == b"HTTP/1.1 200"
            for port in ports[1:]:
                made.append(netns.run_in(outside.path, partial(line, port)))
                node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={only} {only + 9}"], check=True)
                assert got(made[-1]) == b"HTTP/1.1 200"
            for each in made:
                each.close()
    finally:
        node.run(["sysctl", "-w", f"net.ipv4.ip_local_port_range={' '.join(kept)}"], check=True)


def test_segments_out_of_nowhere(ground: Ground, outside: Outside) -> None:
    """Conntrack takes up a connection in the middle; nobody carries it."""
    container = publish(ground)
    ground.webs[0].seen.clear()
    source, node = outside.ips[0], ip_address(NODE)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            for number, flags in enumerate((ACK, PSH | ACK, FIN | ACK, RST | ACK, 0, 0xFF)):
                segment = tcp(source, node, 50000 + number, HTTP, flags, data=b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n")
                raw.sendto(ip(source, node, TCP, segment), (NODE, 0))

    with closing(Capture(container)) as arrived:
        netns.run_in(outside.path, send)
        assert ask(ground, "/shut") == DENIED
        assert 8080 not in arrived.ports
    assert ground.seen() == []


def test_a_silent_client_is_told(ground: Ground, outside: Outside) -> None:
    publish(ground)
    say(ground, OPEN)
    ground.node.becomes(OK, lambda: ask(ground, "/shut"))
    made = netns.run_in(outside.path, lambda: socket.create_connection((NODE, HTTP), 20))
    with made:
        made.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert made.recv(4096)
        say(ground, POLICED)
        with pytest.raises(ConnectionResetError):
            made.recv(1)


def test_over_ipv6(ground: Ground, outside: Outside) -> None:
    """The translation is written by hand: the engine of this test does none for IPv6 unless it is told to."""
    engine, port, node = ground.engine, 18090, "2001:db8::1"
    engine.docker("network", "create", "--ipv6", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64", "six")
    try:
        container = engine.container("published", "--label", "app=published", "--network", "six")
        ground.serve(container)
        ground.known("default/published")
        at = engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", "published")
        for own, there in ((port, 8080), (port + 1, 8081)):
            rule = ["-d", node, "-p", "tcp", "--dport", str(own), "-j", "DNAT", "--to-destination", f"[{at}]:{there}"]
            engine.run(["ip6tables", "-t", "nat", "-A", "PREROUTING", *rule])
        ground.node.becomes(OK, lambda: fetch(outside, node, port + 1, patience=GLANCE))
        ground.node.becomes(OK, lambda: fetch(outside, node, port, "/open", patience=GLANCE))
        assert fetch(outside, node, port, "/shut") == DENIED
        assert {client for client, _ in ground.seen()} == {str(outside.ips[1])}
    finally:
        engine.run(["ip6tables", "-t", "nat", "-F", "PREROUTING"])
        engine.docker("rm", "-f", "published")
        engine.docker("network", "rm", "six")


ASKS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: asks, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: asks}}
  egress:
  - toEntities: [world]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: "/open"}]}
"""


def test_what_a_container_asks_of_the_outside(ground: Ground, outside: Outside) -> None:
    """The engine gives it the node's address on its way, and the answers theirs."""
    asks = cast(Namespace, ground.engine.container("asks", "--label", "app=asks"))
    ground.known("default/asks")
    ground.node.write("asks", ASKS)
    with closing(Web(outside, 80)) as web:
        there = outside.ips[0]
        ground.node.becomes(DENIED, lambda: fetch(asks, there, 80, "/shut", patience=GLANCE))
        assert fetch(asks, there, 80, "/open", patience=3 * GLANCE) == OK
        assert web.clients() == {NODE}
    (ground.node.policies / "asks.yaml").unlink()
