"""The data path on a node of namespaces with a real Envoy: what is allowed, redirected and dropped, and restarts."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest
from lockgate.agent.playground import Namespace, Playground, Pod
from lockgate.envoy.running.binary import find_binary
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
from lockgate.policies.resolve import LOCAL_HOST
from lockgate.policies.workload import Endpoint, Workload
from lockgate.redirect.datapath import Datapath
from lockgate.redirect.device import find_device, node_addresses
from lockgate.redirect.kernel import netns
from lockgate.redirect.opening import Opening
from lockgate.redirect.plan import plan
from lockgate.redirect.reason import Reason

T = TypeVar("T")

ORIGIN = RuleOrigin("CiliumNetworkPolicy", "default", "test", "spec", "test.yaml", 1)
PATIENCE = 15.0  # for what must come
GLANCE = 0.4  # for what must not come
L7, L4, SHUT = 80, 8080, 9090  # the server's ports: policed by Envoy, allowed in the kernel, not allowed
IDENTITIES = {"client": 70001, "server": 70002, "stranger": 70003, "late": 70004}
OPEN = EndpointPolicy()


def rule(peer: str | None, *spans: PortSpan, http: bool = False, deny: bool = False) -> ResolvedRule:
    peers = None if peer is None else frozenset({IDENTITIES[peer]})
    return ResolvedRule(ORIGIN, deny, peers, spans or None, HttpRules((HttpRule(),)) if http else None)


def tcp(port: int) -> PortSpan:
    return PortSpan(Protocol.TCP, port, port)


def udp(port: int) -> PortSpan:
    return PortSpan(Protocol.UDP, port, port)


def ingress(*rules: ResolvedRule) -> EndpointPolicy:
    return EndpointPolicy(ingress=DirectionPolicy(True, (*rules, LOCAL_HOST)))


USUAL = ingress(rule("client", tcp(L7), http=True), rule("client", tcp(L4), udp(L4)))


class Server:
    """Answers HTTP requests with the peer's address, on TCP; echoes on UDP. `log` holds everything that reached it."""

    def __init__(self, where: Namespace, *ports: int) -> None:
        self.log: list[str] = []
        self._sockets: list[socket.socket] = []
        self.live: list[socket.socket] = []
        for port in ports:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                self._sockets.append(netns.run_in(where.path, partial(self._bind, kind, port)))
        for each in self._sockets:
            serve = self._accept if each.type == socket.SOCK_STREAM else self._echo
            threading.Thread(target=serve, args=(each,), daemon=True).start()

    @staticmethod
    def _bind(kind: socket.SocketKind, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET6, kind)
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("::", port))
        if kind == socket.SOCK_STREAM:
            bound.listen(128)
        return bound

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, peer = listener.accept()
                self.log.append(f"connection from {peer[0]}")
                self.live.append(connection)
                threading.Thread(target=self._answer, args=(connection, peer[0]), daemon=True).start()

    def _answer(self, connection: socket.socket, peer: str) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as received:
            while line := received.readline():
                length = 0
                while (header := received.readline()) not in (b"\r\n", b""):
                    name, _, value = header.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                self.log.append(f"{line.decode().strip()} from {peer}")
                body = received.read(length) if length else peer.encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    def _echo(self, bound: socket.socket) -> None:
        with suppress(OSError):
            while True:
                data, peer = bound.recvfrom(2048)
                if peer is None:  # shut down
                    return
                self.log.append(f"datagram from {peer[0]}")
                bound.sendto(data, peer)

    def close(self) -> None:
        for each in (*self._sockets, *self.live):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class Node:
    """A playground with a client, a server and a stranger, a data path in it, and an Envoy that can come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pin_dir = Path(f"/sys/fs/bpf/lg-e2e-datapath-{os.getpid()}")
        self.ground = Playground(f"datapath{os.getpid()}")
        self.client, self.server, self.stranger = (self.ground.pod(name) for name in ("client", "server", "stranger"))
        self.pods: list[Pod] = [self.client, self.server, self.stranger]
        self.web = Server(self.server, L7, L4, SHUT)
        self.envoy: subprocess.Popen[Any] | None = None
        self.inside(lambda: Datapath.remove_pinned(self.pin_dir))
        self.datapath = self.inside(lambda: Datapath.open(Opening(self.pin_dir)))
        for pod in self.pods:
            self.inside(partial(self.datapath.attach, self.endpoint(pod)))

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def endpoint(self, pod: Pod) -> Endpoint:
        workload = Workload(pod.name, "default", (), netns=pod.netns)
        device = self.inside(lambda: find_device(workload))
        return Endpoint(workload, IDENTITIES[pod.name], device.ips, device.ifindex, device.interface)

    def enforce(self, **policies: EndpointPolicy) -> None:
        ipcache = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10}
        ipcache |= {ip_network(ip): 1 for ip in self.inside(node_addresses)}
        wanted = plan([(self.endpoint(pod), policies.get(pod.name, OPEN)) for pod in self.pods], ipcache)
        self.inside(lambda: self.datapath.apply(wanted))

    def reopen(self) -> None:
        self.datapath.close()
        self.datapath = self.inside(lambda: Datapath.open(Opening(self.pin_dir)))

    def dropped(self, reason: Reason) -> int:
        return sum(each.packets for each in self.datapath.counters() if each.reason is reason)

    def start_envoy(self) -> None:
        config = self.folder / "envoy.json"
        config.write_text(json.dumps(bootstrap(self.folder / "admin.sock")))
        command: list[str | Path] = [
            find_binary().path,
            "-c",
            config,
            "--use-dynamic-base-id",
            "--concurrency",
            "2",
            "-l",
            "error",
        ]
        self.envoy = self.ground.node.popen(command)
        wait_for(lambda: "LIVE" in self.admin("/ready"))

    def stop_envoy(self) -> None:
        if self.envoy is not None:
            self.envoy.kill()
            self.envoy.wait()
            self.envoy = None

    def admin(self, path: str) -> str:
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(PATIENCE)
            try:
                admin.connect(str(self.folder / "admin.sock"))
            except OSError:
                return ""
            admin.sendall(f"GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()

    def through_envoy(self) -> int:
        """Connections that Envoy has accepted so far."""
        lines = self.admin("/stats?filter=http.policed.downstream_cx_total").splitlines()
        return int(next(line for line in lines if line.startswith("http.policed.downstream_cx_total")).split()[-1])

    def close(self) -> None:
        self.web.close()
        self.stop_envoy()
        self.inside(self.datapath.remove)
        self.ground.close()


def bootstrap(admin: Path) -> dict[str, Any]:
    def typed(name: str, kind: str, **fields: Any) -> dict[str, Any]:
        return {"name": name, "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.{kind}"} | fields}

    route = {"match": {"prefix": "/"}, "route": {"cluster": "original_dst"}}
    manager = typed(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="policed",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[typed("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    filters = [
        typed("envoy.filters.listener.original_dst", "filters.listener.original_dst.v3.OriginalDst"),
        typed("envoy.filters.listener.original_src", "filters.listener.original_src.v3.OriginalSrc", mark=0xA00),
    ]
    return {
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {
            "listeners": [
                {
                    "name": address,
                    "address": {"socket_address": {"address": address, "port_value": 15001}},
                    "transparent": True,
                    "listener_filters": filters,
                    "filter_chains": [{"filters": [manager]}],
                }
                for address in ("127.0.0.1", "::1")
            ],
            "clusters": [{"name": "original_dst", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"}],
        },
    }


def wait_for(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


def connect(where: Namespace, ip: object, port: int, patience: float = PATIENCE) -> socket.socket:
    return netns.run_in(where.path, lambda: socket.create_connection((str(ip), port), patience))


def ask(connection: socket.socket, body: bytes = b"") -> bytes:
    """One request on a live connection; the answer's body. Raises what the socket raises."""
    head = b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n" % len(body)
    sender = threading.Thread(target=connection.sendall, args=(head + body,))
    sender.start()
    with connection.makefile("rb") as received:
        try:
            status = received.readline()
            if not status:
                raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
            length = 0
            while (header := received.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            assert status.split()[1] == b"200", status
            return received.read(length)
        finally:
            sender.join()


def fetch(where: Namespace, ip: object, port: int, patience: float = PATIENCE) -> str:
    with connect(where, ip, port, patience) as connection:
        return ask(connection).decode().removeprefix("::ffff:")


def datagram(where: Namespace, ip: object, port: int, patience: float, *options: tuple[int, int, bytes]) -> bytes:
    def send() -> bytes:
        with socket.socket(socket.AF_INET6 if ":" in str(ip) else socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience)
            for option in options:
                sender.setsockopt(*option)
            sender.connect((str(ip), port))
            sender.send(b"hello")
            return sender.recv(100)

    return netns.run_in(where.path, send)


@pytest.fixture(scope="module")
def module_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("datapath"))
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
    node.datapath = node.inside(lambda: Datapath.open(Opening(node.pin_dir)))
    assert node.datapath.attached() >= {pod.ifindex for pod in node.pods}
    node.enforce(server=USUAL)
    for each in traffic:
        each.finish()
    assert not any(str(node.stranger.ipv4) in line for line in node.web.log)
