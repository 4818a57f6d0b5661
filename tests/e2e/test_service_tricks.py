"""Clients that try to get past a policy by a service's address, on a live node with a world beyond it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from ipaddress import ip_address

import dns.message
import dns.rcode
import pytest
from lockgate.agent.playground import Pod
from lockgate.policies.endpoint_policy import Protocol
from lockgate.policies.service import Backend, Frontend
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import cgroup, netns, pinned_link
from lockgate.redirect.kernel.kept_programs import DEFAULT_CACHE_DIR
from lockgate.redirect.kernel.netns_cookie import own_cookie
from lockgate.redirect.services import ServiceAddresses
from lockgate.tests.e2e.live_node import CLOSED, DENIED, DROPPED, GLANCE, OK, PATIENCE, Line, LiveNode, fetch, live_node
from lockgate.tests.e2e.service_ground import API, ECHO, NAMES, SERVICES, SHOP, WORLD_L4, ServiceGround, opened
from lockgate.tests.e2e.wire import UDP, Wire, ip, udp

NODE_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {}
  egress: [{toEntities: [all]}]
"""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
KINDS = socket.AF_INET, socket.AF_INET6
MPTCP, FAST_OPEN, MORE = 262, 0x20000000, 0x8000
SECOND = struct.pack("=qq", 0, 400_000)
# Its group is one that it has made itself, below its own, and so is what it sees of them.
IN_A_GROUP = """
import socket, sys
made = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
made.sendall(b"GET / HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
print(made.getpeername()[0], made.recv(100).split()[1].decode())
"""
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(scope="module")
def tricks() -> Iterator[ServiceGround]:
    with live_node(start=False) as node, ExitStack() as stack:
        made = ServiceGround(node, stack)
        node.start_agent()
        yield made


def ipv4_address(address: IPAddress, port: int, family: int = socket.AF_INET) -> bytes:
    """A struct sockaddr_in, which not every family of sockets is meant to be given."""
    return struct.pack("=H", family) + struct.pack("!H", port) + address.packed + bytes(8)


def called(function: str, made: socket.socket, *arguments: object) -> None:
    if getattr(libc, function)(made.fileno(), *arguments) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def disconnect(made: socket.socket) -> None:
    called("connect", made, bytes(28), 28)  # AF_UNSPEC


def seen(node: LiveNode) -> list[str]:
    """Requests that came to pods since the last look."""
    found = [each.path for name in ("backend", "api-server") for each in node.webs[name].seen]
    for web in node.webs.values():
        web.seen.clear()
    return found


@FAMILIES
class TestConnections:
    def ask(self, made: socket.socket, vip: IPAddress, port: int, path: str, *, fast: bool) -> str:
        """With `fast` the request is in the call that connects."""
        wanted = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            made.setsockopt(socket.SOL_SOCKET, option, SECOND)
        with made:
            try:
                if fast:
                    made.sendto(wanted, FAST_OPEN, (str(vip), port))
                else:
                    made.connect((str(vip), port))
                    made.sendall(wanted)
                return made.recv(100).split()[1].decode()
            except BlockingIOError:
                return DROPPED

    @pytest.mark.parametrize("fast", [False, True], ids=["mptcp", "fast open"])
    def test_other_ways_to_connect(self, tricks: ServiceGround, family: int, fast: bool) -> None:
        node = tricks.node
        seen(node)

        def status(who: Pod, vip: IPAddress, port: int, path: str = "/") -> str:
            made = opened(who, KINDS[family], socket.SOCK_STREAM, 0 if fast else MPTCP)
            return self.ask(made, vip, port, path, fast=fast)

        assert status(node.frontend, SHOP[family], 80) == OK
        assert status(tricks.asker, API[family], 8000, "/users") == OK
        assert seen(node) == ["/", "/users"]
        assert status(tricks.asker, API[family], 8000, "/admin") == "403"
        assert status(node.intruder, SHOP[family], 80) == DROPPED
        assert status(node.intruder, API[family], 8000, "/users") == DROPPED
        with pytest.raises(ConnectionRefusedError):
            status(node.frontend, SHOP[family], 81)
        assert seen(node) == []

    def test_in_a_control_group_of_its_own(self, tricks: ServiceGround, family: int) -> None:
        group = cgroup.root() / f"lockgate-test-{os.getpid()}" / "below"
        group.mkdir(parents=True)
        try:
            enter = f'echo $$ > {group}/cgroup.procs; exec unshare --cgroup "$0" "$@"'
            for who, patience, expected in (
                (tricks.node.frontend, PATIENCE, f"{SHOP[family]} {OK}\n"),
                (tricks.node.intruder, GLANCE, ""),
            ):
                command = ["sh", "-ec", enter, sys.executable, "-c", IN_A_GROUP, SHOP[family], 80, patience]
                assert who.run([str(each) for each in command]).stdout == expected
        finally:
            for each in (group, group.parent):
                each.rmdir()

    def test_with_an_address_that_is_not_its_own(self, tricks: ServiceGround, family: int) -> None:
        node = tricks.node
        seen(node)
        for source in (node.frontend.ips[family], SHOP[family], ip_address(("127.0.0.1", "::1")[family])):
            made = opened(node.intruder, KINDS[family], socket.SOCK_STREAM)
            with closing(made), suppress(OSError):
                made.setsockopt(*((socket.IPPROTO_IP, 15), (socket.IPPROTO_IPV6, 78))[family], 1)  # FREEBIND
                made.settimeout(GLANCE)
                made.bind((str(source), 0))
                made.connect((str(SHOP[family]), 80))
                pytest.fail(f"it has connected as {source}")
        assert seen(node) == []

    def test_the_next_peer_of_the_same_socket_is_shown_as_it_is(self, tricks: ServiceGround, family: int) -> None:
        backend = str(tricks.node.backend.ips[family])
        with closing(opened(tricks.node.frontend, KINDS[family], socket.SOCK_STREAM)) as made:
            made.settimeout(PATIENCE)
            made.connect((str(SHOP[family]), 80))
            assert made.getpeername()[:2] == (str(SHOP[family]), 80)
            disconnect(made)
            made.connect((backend, 8080))
            assert made.getpeername()[:2] == (backend, 8080)

    def test_nothing_for_the_address_itself_leaves(self, tricks: ServiceGround, family: int) -> None:
        """By sockets that nobody gives a backend, of a pod that may reach everybody."""
        icmp = (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6)[family]
        segment = struct.pack("!HHIIHHHH", 1234, 80, 1, 0, 0x5002, 1000, 0, 0)

        def send() -> None:
            for protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP, icmp, socket.IPPROTO_SCTP):
                with closing(opened(tricks.node.intruder, KINDS[family], socket.SOCK_RAW, protocol)) as raw:
                    raw.sendto(segment, (str(SHOP[family]), 0))
                    raw.connect((str(SHOP[family]), 0))
                    raw.send(segment)

        assert tricks.leaves(send) == []

    def test_nor_from_the_node_where_a_policy_selects_it(self, tricks: ServiceGround, family: int) -> None:
        node = tricks.node

        def send() -> None:
            kind = KINDS[family], socket.SOCK_RAW, socket.IPPROTO_UDP
            with closing(opened(node.node, *kind)) as raw, suppress(OSError):  # "no buffer space" tells of a drop
                raw.sendto(struct.pack("!HHHH", 1234, 80, 8, 0), (str(SHOP[family]), 0))

        assert tricks.leaves(send)
        path = node.write("node", NODE_POLICY)
        try:
            node.until("it is in force", lambda: not tricks.leaves(send))
            assert fetch(node.node, SHOP[family], 80) == OK
        finally:
            path.unlink()
            node.until("it is gone", lambda: tricks.leaves(send))


class TestDatagrams:
    def test_an_ipv4_address_in_every_kind_of_call(self, tricks: ServiceGround) -> None:
        """The kernel asks the programs for IPv4 or those for IPv6, by the address and not by the socket."""
        there, wrong = ipv4_address(ECHO[0], 53), ipv4_address(ECHO[0], 54)
        unspecified = ipv4_address(ECHO[0], 53, socket.AF_UNSPEC)
        frontend = tricks.node.frontend

        def answer(made: socket.socket) -> tuple[str, int]:
            made.settimeout(PATIENCE)
            name, peer = made.recvfrom(100)
            assert name.decode() in ("echo1", "echo2")
            return peer[0].removeprefix("::ffff:"), peer[1]

        for family, address in ((socket.AF_INET6, there), (socket.AF_INET, unspecified)):
            with closing(opened(frontend, family, socket.SOCK_DGRAM)) as made:
                called("sendto", made, b"?", 1, 0, address, len(address))
                assert answer(made) == (str(ECHO[0]), 53)
        with closing(opened(frontend, socket.AF_INET6, socket.SOCK_DGRAM)) as made:
            called("connect", made, there, len(there))
            made.send(b"?")
            assert answer(made) == (str(ECHO[0]), 53)
            for function, more in (("connect", ()), ("sendto", (b"?", 1, 0))):
                with pytest.raises(ConnectionRefusedError):
                    called(function, made, *more, wrong, len(wrong))

    def test_while_it_is_connected_elsewhere(self, tricks: ServiceGround) -> None:
        with closing(opened(tricks.node.frontend, socket.AF_INET, socket.SOCK_DGRAM)) as made:
            made.settimeout(PATIENCE)
            made.connect((str(tricks.outside.ips[0]), WORLD_L4))
            made.sendto(b"?", (str(ECHO[0]), 53))
            assert made.getpeername() == (str(tricks.outside.ips[0]), WORLD_L4)
            made.send(b"?")
            assert made.recvfrom(100) == (b"world", (str(tricks.outside.ips[0]), WORLD_L4))

    def test_what_is_held_back_goes_where_it_began(self, tricks: ServiceGround) -> None:
        one = str(tricks.echoes[0].ipv4)
        with closing(opened(tricks.node.frontend, socket.AF_INET, socket.SOCK_DGRAM)) as made:
            made.settimeout(PATIENCE)
            made.sendto(b"a", MORE, (one, 5353))
            made.sendto(b"b", (str(ECHO[0]), 53))
            assert made.recvfrom(100) == (b"echo1", (one, 5353))

    def test_an_answer_in_a_backends_name(self, tricks: ServiceGround) -> None:
        """The other backend and a stranger say that they are the one that was asked."""
        frontend = tricks.node.frontend
        with closing(opened(frontend, socket.AF_INET, socket.SOCK_DGRAM)) as made, ExitStack() as wires:
            made.settimeout(PATIENCE)
            made.sendto(b"?", (str(ECHO[0]), 53))
            name, _ = made.recvfrom(100)
            asked = next(pod for pod in tricks.echoes if pod.name == name.decode())
            port = made.getsockname()[1]
            for liar in (*tricks.echoes, tricks.node.intruder):
                if liar is asked:
                    continue
                wire = wires.enter_context(Wire(liar, tricks.node.node))
                for source, sport in ((asked.ipv4, 5353), (ECHO[0], 53)):
                    lie = udp(source, frontend.ipv4, sport, port, b"lie")
                    wire.send(ip(source, frontend.ipv4, UDP, lie))
            made.sendto(b"?", (str(ECHO[0]), 53))
            assert made.recvfrom(100)[0] == name
            made.settimeout(GLANCE)
            with pytest.raises(TimeoutError):
                made.recvfrom(100)

    @FAMILIES
    def test_names_are_judged(self, tricks: ServiceGround, family: int) -> None:
        codes = {}
        for name in ("good.example.com", "bad.example.com"):
            with closing(opened(tricks.asker, KINDS[family], socket.SOCK_DGRAM)) as made:
                made.settimeout(PATIENCE)
                made.sendto(dns.message.make_query(name, "A").to_wire(), (str(NAMES[family]), 53))
                data, peer = made.recvfrom(1000)
                assert peer[:2] == (str(NAMES[family]), 53)
                codes[name] = dns.message.from_wire(data).rcode()
        assert codes == {"good.example.com": dns.rcode.NOERROR, "bad.example.com": dns.rcode.REFUSED}
        assert set(tricks.name_server.names()) == {"good.example.com"}


class TestChanges:
    @pytest.fixture
    def world_vip(self, tricks: ServiceGround) -> str:
        """A service with the address of a host of the world, of which the API is the backend."""
        vip = tricks.outside.ips[0]
        return f"{SERVICES}- name: taken\n  selector: {{app: api-server}}\n  vips: [{vip}]\n  ports: [{{port: 80}}]\n"

    def test_what_is_older_than_the_address(self, tricks: ServiceGround, world_vip: str) -> None:
        """Connections to a host whose address becomes a service's end, past Envoy and through it."""
        node, world = tricks.node, tricks.outside.ips[0]
        with closing(opened(tricks.asker, socket.AF_INET, socket.SOCK_DGRAM)) as made, ExitStack() as lines:
            made.settimeout(PATIENCE)
            netns.run_in(tricks.asker.path, lambda: made.connect((str(world), WORLD_L4)))
            made.send(b"?")
            assert made.recv(100) == b"world"
            straight = lines.enter_context(Line(tricks.asker, world, WORLD_L4))
            judged = lines.enter_context(Line(tricks.asker, world, 80))
            assert [str(straight.ask()), str(judged.ask("/admin"))] == [OK, OK]
            tricks.list_services(world_vip)
            try:
                node.until("it is served", lambda: f"{world}:80/TCP" in tricks.served())
                made.settimeout(GLANCE)
                made.send(b"?")
                with pytest.raises(TimeoutError):
                    made.recv(100)
                assert str(straight.ask(patience=GLANCE)) in (DROPPED, CLOSED)
                assert str(judged.ask("/admin", patience=GLANCE)) in (DROPPED, CLOSED)
                assert fetch(tricks.asker, world, 80, "/admin") == DENIED
                assert fetch(tricks.asker, world, 80, "/users") == OK
            finally:
                tricks.list_services(SERVICES)
                node.until("it is gone", lambda: f"{world}:80/TCP" not in tricks.served())
        node.becomes(OK, lambda: fetch(tricks.asker, world, 80, "/admin", patience=GLANCE))

    def test_somebody_takes_the_programs_off(self, tricks: ServiceGround) -> None:
        """Meanwhile nobody is given a backend, and so nobody is reached."""
        node = tricks.node
        links = node.settings.pin_dir / "service-links"
        held = sorted(links.iterdir())
        assert len(held) == 8
        for take in (lambda path: path.unlink(), pinned_link.detach):
            for path in held:
                take(path)
            node.becomes(OK, lambda: fetch(node.frontend, SHOP[0], 80, patience=GLANCE))
            node.until("all are back", lambda: sorted(links.iterdir()) == held)
            assert fetch(node.intruder, SHOP[0], 80, patience=GLANCE) == DROPPED
        assert "service addresses have lost their programs" in node.log

    def test_a_proxy_reaches_whom_it_has_judged(self, tricks: ServiceGround) -> None:
        """An agent has died between two maps: to policies the address is the world's, and sockets are led to the API by
        it. What is allowed at the world, Envoy asked the API for."""
        node, world = tricks.node, ip_address("198.51.100.7")  # to which Envoy has kept no connection
        tricks.outside.add_address(world)
        node.end_agent(signal.SIGKILL)
        left = ServiceAddresses(node.settings.pin_dir, DEFAULT_CACHE_DIR)
        before = left.serving()
        frontend, backend = Frontend(world, 80, Protocol.TCP), Backend(node.api.ipv4, 80)
        cookie = netns.run_in(node.node.path, own_cookie)
        seen(node)
        with closing(left):
            wanted = {each: dict.fromkeys(backends, 1) for each, backends in before.items()}
            vips = {each.ip for each in before}
            left.apply({**wanted, frontend: {backend: 1}}, {*vips, world}, {cookie})
            assert fetch(node.node, world, 80, "/led") == OK
            assert seen(node) == ["/led"]
            assert fetch(tricks.asker, world, 80, "/admin") == OK
            assert seen(node) == []
        node.start_agent()
        assert fetch(node.node, world, 80, "/") == OK
        assert seen(node) == []
