"""Services' own addresses on a live node: who is given which backend, and that policies judge the backend."""

from __future__ import annotations

import json
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from ipaddress import ip_address

import pytest
from lockgate.agent.playground import Namespace, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.command_line import lockgate
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
from lockgate.tests.e2e.probes import Probe
from lockgate.tests.e2e.udp_echo import UdpEcho

SHOP = ip_address("10.96.0.10"), ip_address("fd00:96::10")
API = ip_address("10.96.0.11"), ip_address("fd00:96::11")
ECHO = ip_address("10.96.0.12"), ip_address("fd00:96::12")
EMPTY = ip_address("10.96.0.13"), ip_address("fd00:96::13")
SERVICES = """
services:
- name: shop
  selector: {app: backend}
  vips: [10.96.0.10, "fd00:96::10"]
  ports: [{port: 80, targetPort: web}]
  backends: [{selector: {tier: second}, weight: 3}]
  health: {http: /healthz, interval: 0.2, timeout: 2, rise: 1, fall: 2}
- name: api
  selector: {app: api-server}
  vips: [10.96.0.11, "fd00:96::11"]
  ports: [{port: 8000, targetPort: 80}]
- name: echo
  selector: {app: echo}
  vips: [10.96.0.12, "fd00:96::12"]
  ports: [{port: 53, targetPort: 5353, protocol: UDP}]
"""
NOBODY = """
- name: empty
  selector: {app: nobody}
  vips: [10.96.0.13, "fd00:96::13"]
  ports: [{port: 80}]
"""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made, ExitStack() as echoes:
        made.backend.ports = {"web": 8080}
        second = made.ground.pod("second", labels={"app": "backend", "tier": "second"}, ports={"web": 8080})
        made.serve(second, 8080)
        for name in ("echo1", "echo2"):
            pod = made.ground.pod(name, labels={"app": "echo"})
            echoes.enter_context(UdpEcho(pod, 5353, answer=name.encode()))
        list_services(made)
        made.start_agent()
        made.until("every backend has been asked", partial(all_serve, made))
        yield made


def all_serve(node: LiveNode) -> bool:
    listed = node.lockgate("service", "list", "-o", "json").data
    backends = [backend for each in listed for backend in each["backends"]]
    return bool(backends) and all(backend["serves"] for backend in backends)


def list_services(node: LiveNode, services: str = SERVICES) -> None:
    node.replace(node.workloads, node.ground.workloads_yaml() + services)


def second(node: LiveNode) -> Pod:
    return next(pod for pod in node.ground.pods if pod.name == "second")


def connect(where: Namespace, ip: IPAddress, port: int) -> socket.socket:
    return netns.run_in(where.path, lambda: socket.create_connection((str(ip), port), PATIENCE))


def datagram(where: Namespace, family: int) -> socket.socket:
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    made = netns.run_in(where.path, lambda: socket.socket(kind, socket.SOCK_DGRAM))
    made.settimeout(PATIENCE)
    return made


def served_by(node: LiveNode) -> Counter[str]:
    """Requests that pods have seen since the last look; nobody but clients asks for /."""
    counts = Counter({name: sum(each.path == "/" for each in web.seen) for name, web in node.webs.items()})
    for web in node.webs.values():
        web.seen.clear()
    return +counts


def dropped_for_their_address(node: LiveNode) -> int:
    counters = node.lockgate("datapath", "status", "-o", "json").data["counters"]
    return sum(each["packets"] for each in counters if each["reason"] == "address")


@FAMILIES
class TestConnections:
    def test_by_weight_and_the_client_sees_the_service(self, node: LiveNode, family: int) -> None:
        """Weights 3 and 1: of 200, 150 and 50, each with a standard deviation of 6."""
        served_by(node)
        for _ in range(200):
            assert fetch(node.frontend, SHOP[family], 80) == OK
        assert {client for web in node.webs.values() for client in web.clients()} >= {str(node.frontend.ips[family])}
        counts = served_by(node)
        assert counts.keys() == {"backend", "second"}
        assert 110 <= counts["second"] <= 190
        with closing(connect(node.frontend, SHOP[family], 80)) as made:
            assert made.getpeername()[:2] == (str(SHOP[family]), 80)
            assert made.getsockname()[0] == str(node.frontend.ips[family])

    def test_a_kept_connection_stays_where_it_is(self, node: LiveNode, family: int) -> None:
        served_by(node)
        with Line(node.frontend, SHOP[family], 80) as line:
            assert {str(line.ask()) for _ in range(20)} == {OK}
        assert sorted(served_by(node).values()) == [20]

    def test_the_backends_policy_judges(self, node: LiveNode, family: int) -> None:
        served_by(node)
        assert fetch(node.intruder, SHOP[family], 80, patience=GLANCE) == DROPPED
        assert not served_by(node)

    def test_requests_are_judged_by_envoy(self, node: LiveNode, family: int) -> None:
        entered = "^listener.lockgate_http.downstream_cx_total$"
        before = node.stat(entered)
        assert fetch(node.frontend, API[family], 8000, "/api/v1/users") == OK
        assert fetch(node.frontend, API[family], 8000, "/", "POST") == DENIED
        assert node.stat(entered) == before + 2
        assert fetch(node.intruder, API[family], 8000, "/api/v1/users", patience=GLANCE) == DROPPED
        assert {each.client for each in node.webs["api-server"].seen} == {str(node.frontend.ips[family])}
        node.webs["api-server"].seen.clear()

    def test_the_node_itself_is_served(self, node: LiveNode, family: int) -> None:
        assert fetch(node.node, SHOP[family], 80) == OK
        assert sum(served_by(node).values()) == 1

    def test_another_port_is_refused(self, node: LiveNode, family: int) -> None:
        for port in (81, 8080):
            assert fetch(node.frontend, SHOP[family], port) == REFUSED

    def test_what_goes_round_the_sockets_is_dropped(self, node: LiveNode, family: int) -> None:
        """A raw socket is given no backend; its packet is nobody's."""
        before = dropped_for_their_address(node)
        kind = (socket.AF_INET, socket.AF_INET6)[family]
        raw = netns.run_in(node.frontend.path, lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_UDP))
        with closing(raw):
            raw.sendto(struct.pack("!HHHH", 1234, 53, 8, 0), (str(ECHO[family]), 0))
        node.until("it is counted", lambda: dropped_for_their_address(node) > before)


@FAMILIES
class TestDatagrams:
    def test_without_connect(self, node: LiveNode, family: int) -> None:
        """A socket stays with its backend and sees answers from whom it asked; sockets are spread."""
        names = set()
        for _ in range(24):  # that all of them are given the same one has a chance of 2^-23
            with closing(datagram(node.frontend, family)) as asking:
                own = set()
                for _ in range(3):
                    asking.sendto(b"?", (str(ECHO[family]), 53))
                    name, peer = asking.recvfrom(100)
                    assert peer[:2] == (str(ECHO[family]), 53)
                    own.add(name.decode())
                assert len(own) == 1
                names |= own
        assert names == {"echo1", "echo2"}

    def test_with_connect(self, node: LiveNode, family: int) -> None:
        with closing(datagram(node.frontend, family)) as asking:
            netns.run_in(node.frontend.path, lambda: asking.connect((str(ECHO[family]), 53)))
            assert asking.getpeername()[:2] == (str(ECHO[family]), 53)
            asking.send(b"?")
            name, peer = asking.recvfrom(100)
            assert peer[:2] == (str(ECHO[family]), 53)
            # The same socket may ask a backend by its own name.
            backend = next(pod for pod in node.ground.pods if pod.name == name.decode())
            asking.connect((str(backend.ips[family]), 5353))
            assert asking.getpeername()[:2] == (str(backend.ips[family]), 5353)

    def test_another_port_is_refused(self, node: LiveNode, family: int) -> None:
        with closing(datagram(node.frontend, family)) as asking, pytest.raises(ConnectionRefusedError):
            asking.sendto(b"?", (str(ECHO[family]), 54))


def test_ipv4_in_an_ipv6_socket(node: LiveNode) -> None:
    address = f"::ffff:{SHOP[0]}"
    with closing(netns.run_in(node.frontend.path, lambda: socket.socket(socket.AF_INET6))) as made:
        made.settimeout(PATIENCE)
        made.connect((address, 80))
        assert made.getpeername()[:2] == (address, 80)


def test_what_is_shown(node: LiveNode) -> None:
    listed = node.lockgate("service", "list", "-o", "json").data
    shop = next(each for each in listed if each["address"] == str(SHOP[0]))
    assert (shop["service"], shop["port"], shop["protocol"]) == ("default/shop", 80, "TCP")
    assert [(each["address"], each["port"], each["weight"], each["health"]) for each in shop["backends"]] == [
        (str(second(node).ipv4), 8080, 3, "healthy"),
        (str(node.backend.ipv4), 8080, 1, "healthy"),
    ]
    assert node.lockgate("service", "list").out.count("not asked") == 6
    assert "services   6 addresses with ports, 10 of 10 backends serve" in node.lockgate("status").out
    entries = node.lockgate("datapath", "maps", "services", "-o", "json").data
    assert [each for each in entries if each["address"] == f"{SHOP[0]}:80/TCP"] == [
        {"address": f"{SHOP[0]}:80/TCP", "backend": f"{node.backend.ipv4}:8080", "weight": 1},
        {"address": f"{SHOP[0]}:80/TCP", "backend": f"{second(node).ipv4}:8080", "weight": 3},
    ]


def test_explain_says_the_same(node: LiveNode) -> None:
    files = ("--policies", node.policies, "--workloads", node.workloads)

    def said(source: str, vip: IPAddress, port: int, *more: str) -> dict[str, object]:
        asked = ("--from", source, "--to", vip, "--port", port, *more)
        return dict(json.loads(lockgate("policy", "explain", *files, *asked, "-o", "json").out))

    assert said("frontend", SHOP[0], 80)["verdict"] == "allow"
    assert said("intruder", SHOP[1], 80)["verdict"] == "deny"
    assert said("frontend", API[0], 8000, "--http", "GET /api/v1/users")["verdict"] == "allow"
    assert said("frontend", API[0], 8000, "--http", "POST /")["verdict"] == "deny"
    assert said("frontend", SHOP[0], 81)["verdict"] == "deny"
    text = lockgate("policy", "explain", *files, "--from", "frontend", "--to", SHOP[0], "--port", 80)
    assert text.status == 0
    assert f"backend {second(node).ipv4} port 8080, weight 3" in text.out


def serving(node: LiveNode) -> set[str]:
    """Who is given to clients of the shop by the kernel."""
    entries = node.lockgate("datapath", "maps", "services", "-o", "json").data
    return {each["backend"] for each in entries if each["address"] == f"{SHOP[0]}:80/TCP" and each["weight"]}


def test_health_decides_who_is_given(node: LiveNode) -> None:
    one, other = f"{node.backend.ipv4}:8080", f"{second(node).ipv4}:8080"
    node.until("both serve", lambda: serving(node) == {one, other})
    node.webs.pop("second").close()
    node.until("it is out", lambda: serving(node) == {one})
    served_by(node)
    assert {fetch(node.frontend, SHOP[0], 80) for _ in range(30)} == {OK}
    assert served_by(node) == {"backend": 30}
    assert node.ok(), "one of two may fail"
    listed = node.lockgate("service", "list").out
    assert "unhealthy" in listed and "connection refused" in listed

    node.webs.pop("backend").close()
    node.until("nobody serves", lambda: serving(node) == set())
    began = time.monotonic()
    assert [fetch(node.frontend, SHOP[family], 80) for family in (0, 1)] == [REFUSED, REFUSED]
    assert time.monotonic() - began < PATIENCE, "refused at once, not after a time-out"
    assert any("nobody serves 10.96.0.10:80/TCP, connections are refused" in each for each in node.problems())

    node.serve(second(node), 8080)
    node.becomes(OK, lambda: fetch(node.frontend, SHOP[0], 80))
    node.serve(node.backend, 8080)
    node.until("both serve again", lambda: serving(node) == {one, other})
    node.until("nothing is wrong", node.ok)


def test_a_service_without_backends(node: LiveNode) -> None:
    list_services(node, SERVICES + NOBODY)
    node.until("it is told", lambda: any("service default/empty: nobody serves" in each for each in node.problems()))
    for family in (0, 1):
        assert fetch(node.frontend, EMPTY[family], 80) == REFUSED
    list_services(node)
    node.until("nothing is wrong", node.ok)


def test_a_backend_that_goes_while_it_is_connected(node: LiveNode) -> None:
    extra = node.ground.pod("extra", labels={"app": "backend", "tier": "second"}, ports={"web": 8080})
    node.serve(extra, 8080)
    list_services(node)
    here = f"{extra.ipv4}:8080"
    node.until("it serves", lambda: here in serving(node))
    lines = []
    try:
        served_by(node)
        while not any(each.path == "/" for each in node.webs["extra"].seen):
            lines.append(Line(node.frontend, SHOP[0], 80))
            assert str(lines[-1].ask()) == OK
        node.node.run(["ip", "link", "del", extra.interface], check=True)  # its server's sockets keep the namespace
        node.remove(extra)
        list_services(node)
        node.until("it is out", lambda: here not in serving(node))
        assert str(lines[-1].ask(patience=GLANCE)) in (DROPPED, CLOSED)
        assert {str(line.ask()) for line in lines[:-1]} <= {OK}, "those of the others stay"
        assert {fetch(node.frontend, SHOP[0], 80) for _ in range(20)} == {OK}
    finally:
        for line in lines:
            line.__exit__(None, None, None)
    node.until("nothing is wrong", node.ok)


def probe(name: str, ask: Callable[[], str]) -> Probe:
    return Probe(name, ask, (OK,))


def test_the_addresses_outlive_the_agent_and_the_next_one_adopts_them(node: LiveNode) -> None:
    links = node.settings.pin_dir / "service-links"
    held = {path.name for path in links.iterdir()}
    assert len(held) == 8
    probes = [probe(str(vip), lambda vip=vip: fetch(node.frontend, vip, 80)) for vip in SHOP]  # type: ignore[misc]
    with Line(node.frontend, SHOP[1], 80) as line:
        node.end_agent(signal.SIGKILL)
        assert {fetch(node.frontend, vip, 80) for vip in SHOP for _ in range(5)} == {OK}
        assert fetch(node.intruder, SHOP[0], 80, patience=GLANCE) == DROPPED
        node.start_agent()
        assert {path.name for path in links.iterdir()} == held
        assert str(line.ask()) == OK
        answers = [each.answers for each in probes]
        node.until("more answers", lambda: all(p.answers > n + 5 for p, n in zip(probes, answers, strict=True)))
    for each in probes:
        each.end()
    assert [wrong for each in probes for wrong in each.wrong] == []


def test_a_pod_by_its_interface_is_served_too(node: LiveNode) -> None:
    text = node.ground.workloads_yaml()
    assert f"netns: {node.frontend.netns}\n" in text
    node.replace(
        node.workloads,
        text.replace(f"netns: {node.frontend.netns}\n", f"interface: {node.frontend.interface}\n") + SERVICES,
    )
    node.end_agent()
    node.start_agent()
    assert fetch(node.frontend, SHOP[0], 80) == OK
    list_services(node)
    node.until("nothing is wrong", node.ok)


def test_when_the_last_address_goes_nothing_is_left(node: LiveNode) -> None:
    with Line(node.frontend, SHOP[0], 80) as line:
        list_services(node, "")
        links = node.settings.pin_dir / "service-links"
        node.until("the links are gone", lambda: not list(links.iterdir()))
        assert str(line.ask()) == OK, "a connection that exists stays"
    assert node.lockgate("datapath", "maps", "services", "-o", "json").data == []
    with pytest.raises(OSError, match="unreachable"):  # an address like any other, and the node has no route to it
        connect(node.frontend, SHOP[0], 80)
    list_services(node)
    node.until("both serve", lambda: len(serving(node)) == 2)
    assert fetch(node.frontend, SHOP[0], 80) == OK
