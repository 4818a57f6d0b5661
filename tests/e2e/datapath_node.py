"""A node of namespaces with a real Envoy and the data path, without an agent: policies are written to the maps as tests
want them."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

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
from lockgate.redirect.planner import plan
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

    def __init__(self, folder: Path, host_routing: bool = False) -> None:
        self.folder = folder
        self.host_routing = host_routing
        self.placed: dict[str, str] = {}  # interfaces of pods that are given by them
        self.pin_dir = Path(f"/sys/fs/bpf/lg-e2e-datapath-{os.getpid()}")
        self.ground = Playground(f"datapath{os.getpid()}")
        self.client, self.server, self.stranger = (self.ground.pod(name) for name in ("client", "server", "stranger"))
        self.pods: list[Pod] = [self.client, self.server, self.stranger]
        self.web = Server(self.server, L7, L4, SHUT)
        self.envoy: subprocess.Popen[Any] | None = None
        self.inside(lambda: Datapath.remove_pinned(self.pin_dir))
        self.datapath = self.opened()
        for pod in self.pods:
            self.inside(partial(self.datapath.attach, self.endpoint(pod)))

    def inside(self, function: Callable[[], T]) -> T:
        return netns.run_in(self.ground.node.path, function)

    def opened(self) -> Datapath:
        return self.inside(lambda: Datapath.open(Opening(self.pin_dir, host_routing=self.host_routing)))

    def endpoint(self, pod: Pod) -> Endpoint:
        interface = self.placed.get(pod.name)
        workload = Workload(pod.name, "default", (), netns=None if interface else pod.netns, interface=interface)
        device = self.inside(lambda: find_device(workload))
        return Endpoint(workload, IDENTITIES[pod.name], device.ips, device.ifindex, device.interface)

    def enforce(self, **policies: EndpointPolicy) -> None:
        ipcache = {ip_network("0.0.0.0/0"): 9, ip_network("::/0"): 10}
        ipcache |= {ip_network(ip): 1 for ip in self.inside(node_addresses).ips}
        wanted = plan([(self.endpoint(pod), policies.get(pod.name, OPEN)) for pod in self.pods], ipcache)
        self.inside(lambda: self.datapath.apply(wanted))

    def reopen(self) -> None:
        self.datapath.close()
        self.datapath = self.opened()

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
