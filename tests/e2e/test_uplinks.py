"""Whatever a node hangs on its network by: what comes in is judged, what is allowed works, the node's policy holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import yaml
from lockgate.agent.playground import Namespace, Outside
from lockgate.tests.e2e.live_node import (
    CLOSED,
    DENIED,
    DROPPED,
    GLANCE,
    OK,
    PATIENCE,
    UNREACHABLE,
    Line,
    LiveNode,
    fetch,
    live_node,
)
from lockgate.tests.e2e.uplink_kinds import (
    KINDS,
    MORE_KINDS,
    NODE_IPS,
    PODS,
    known,
    laid,
    laid_by_hand,
    laid_in_wireguard,
)

OPEN_IN, SHUT_IN = 7001, 7002  # of the node
OPEN_OUT, SHUT_OUT, WEB = 7101, 7102, 80  # of the world
POLICIES = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "7001", protocol: TCP}, {port: "4789", protocol: UDP}]}]
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "7101", protocol: TCP}, {port: "4789", protocol: UDP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: api, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/public"}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: frontend, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toCIDR: [192.0.2.0/24, "2001:db8::/32"]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/public"}]}}]
"""
BACKEND = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: backend, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress:
  - fromCIDR: [192.0.2.0/24, "2001:db8::/32"]
    toPorts: [{ports: [{port: "%s", protocol: TCP}]}]
"""
FAMILIES = pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
BY_HAND = ("tun", "tap")
OF_THIS_KERNEL = [name for name, (needed, _) in MORE_KINDS.items() if known(needed)]
OF_THIS_KERNEL += ["wireguard"] * known("wireguard")


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node(start=False) as made:
        outside = made.ground.outside()
        made.node.run(["ip", "link", "del", "uplink"], check=True)
        for port in (OPEN_IN, SHUT_IN):
            made.webs[f"node {port}"] = made.web_at(made.node, port)
        for port in (OPEN_OUT, SHUT_OUT, WEB):
            made.webs[f"outside {port}"] = made.web_at(outside, port)
        for path in made.policies.iterdir():
            path.unlink()
        made.write("policies", POLICIES)
        made.write("backend", BACKEND % 8080)
        made.start_agent(ready=False)
        made.until("policies are in force", lambda: "in force" in made.log)
        yield made


@pytest.fixture(scope="module")
def outside(node: LiveNode) -> Outside:
    return node.ground.outside()


@pytest.fixture(scope="class", params=[*KINDS, *BY_HAND, *OF_THIS_KERNEL])
def uplink(node: LiveNode, outside: Outside, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the node's interface with its address, of each kind."""
    kind = request.param
    with ExitStack() as stack:
        if kind in BY_HAND:
            name = stack.enter_context(laid_by_hand(kind == "tap", node.node, outside))
        elif kind == "wireguard":
            name = stack.enter_context(laid_in_wireguard(node.node, outside))
        else:
            made = KINDS[kind] if kind in KINDS else MORE_KINDS[kind][1]
            name = stack.enter_context(laid(made, node.node, outside))
        node.until(f"{name} is an uplink", lambda: name in uplinks(node))
        node.until("all is well", node.ok)
        for family in (0, 1):
            node.becomes(OK, lambda: fetch(outside, NODE_IPS[family], OPEN_IN, patience=GLANCE))  # noqa: B023
        yield name


def uplinks(node: LiveNode) -> list[str]:
    return list(node.lockgate("datapath", "status", "-o", "json").data["uplinks"])


def get(where: object, ip: object, port: int, path: str = "/") -> str:
    return fetch(where, ip, port, path, patience=GLANCE)  # type: ignore[arg-type]


@FAMILIES
@pytest.mark.usefixtures("uplink")
class TestEveryKind:
    def test_from_outside_to_a_pod_by_request(self, node: LiveNode, outside: Outside, family: int) -> None:
        api, web = node.api.ips[family], node.webs["api-server"]
        web.seen.clear()
        assert fetch(outside, api, 80, "/public") == OK
        assert fetch(outside, api, 80, "/other") == DENIED
        assert [(each.client, each.path) for each in web.seen] == [(str(outside.ips[family]), "/public")]

    def test_from_outside_to_a_pod_by_port(self, node: LiveNode, outside: Outside, family: int) -> None:
        backend = node.backend.ips[family]
        assert fetch(outside, backend, 8080) == OK
        assert get(outside, backend, 8081) == DROPPED
        with Line(outside, backend, 8080) as line:
            assert str(line.ask()) == OK
            node.write("backend", BACKEND % 8081)
            try:
                node.becomes(DROPPED, lambda: get(outside, backend, 8080))
                assert str(line.ask(patience=GLANCE)) == CLOSED
            finally:
                node.write("backend", BACKEND % 8080)
            node.becomes(OK, lambda: get(outside, backend, 8080))

    def test_a_pod_to_outside(self, node: LiveNode, outside: Outside, family: int) -> None:
        there, web = outside.ips[family], node.webs[f"outside {WEB}"]
        web.seen.clear()
        assert fetch(node.frontend, there, WEB, "/public") == OK
        assert fetch(node.frontend, there, WEB, "/other") == DENIED
        assert get(node.frontend, there, SHUT_OUT) == DROPPED
        assert [(each.client, each.path) for each in web.seen] == [(str(node.frontend.ips[family]), "/public")]

    def test_the_node_itself(self, node: LiveNode, outside: Outside, family: int) -> None:
        assert fetch(outside, NODE_IPS[family], OPEN_IN) == OK
        assert get(outside, NODE_IPS[family], SHUT_IN) == DROPPED
        assert fetch(node.node, outside.ips[family], OPEN_OUT) == OK
        assert get(node.node, outside.ips[family], SHUT_OUT) == DROPPED


def reaches(node: LiveNode, outside: Outside, patience: float = GLANCE) -> list[str]:
    """How requests, packets and questions to the node end that are allowed, and some that are not."""
    asked = ((node.api.ipv4, 80, "/public"), (node.backend.ipv6, 8080, "/"), (NODE_IPS[0], OPEN_IN, "/"))
    allowed = [fetch(outside, ip, port, path, patience=patience) for ip, port, path in asked]
    denied = ((node.api.ipv6, 80, "/other"), (node.backend.ipv4, 8081, "/"), (NODE_IPS[1], SHUT_IN, "/"))
    return allowed + [get(outside, ip, port, path) for ip, port, path in denied]


AS_SAID = [OK, OK, OK, DENIED, DROPPED, DROPPED]


def ip(namespace: Namespace, lines: str) -> None:
    for line in lines.splitlines():
        namespace.run(["ip", *line.split()], check=True)


@pytest.fixture(scope="class")
def over_macvlan(node: LiveNode, outside: Outside) -> Iterator[None]:
    with laid(KINDS["macvlan"], node.node, outside):
        node.until("all works", lambda: reaches(node, outside) == AS_SAID)
        yield


@pytest.mark.usefixtures("over_macvlan")
class TestOneThatChanges:
    """A macvlan interface: one of the kinds that count without a route, as cards do."""

    def test_another_name(self, node: LiveNode, outside: Outside) -> None:
        with Line(outside, node.api.ipv4, 80) as line:
            assert str(line.ask("/public")) == OK
            ip(node.node, "link set mac0 name wan0")
            node.until("it is known by it", lambda: "wan0" in uplinks(node))
            assert str(line.ask("/public")) == OK
            assert reaches(node, outside) == AS_SAID
            ip(node.node, "link set wan0 name mac0")
        node.until("it is known by it", lambda: "mac0" in uplinks(node))

    def test_down_and_up(self, node: LiveNode, outside: Outside) -> None:
        """Its routes are gone meanwhile. The programs stay: nothing comes in before them."""
        links = node.settings.pin_dir / "links"
        held = {path.name for path in links.iterdir()}
        ip(node.node, "link set mac0 down")
        assert fetch(outside, node.backend.ipv4, 8080, patience=GLANCE) in (DROPPED, UNREACHABLE)
        node.until("the node has been looked at", node.ok)
        assert {path.name for path in links.iterdir()} == held
        ip(node.node, "link set mac0 up")
        addressed(node)
        node.until("all works", lambda: reaches(node, outside) == AS_SAID)

    def test_another_size(self, node: LiveNode, outside: Outside) -> None:
        """Smaller than what a server sends at once: it is told, past Envoy too."""
        body = b"a" * 100_000
        node.webs["api-server"].body = node.webs["backend"].body = body
        try:
            ip(node.node, "link set mac0 mtu 1280")
            for family in (0, 1):
                with Line(outside, node.api.ips[family], 80) as line:
                    assert line.ask("/public").body == body.decode()
                    assert str(line.ask("/other")) == DENIED
                with Line(outside, node.backend.ips[family], 8080) as line:
                    assert line.ask().body == body.decode()
        finally:
            node.webs["api-server"].body = node.webs["backend"].body = b""
            ip(node.node, "link set mac0 mtu 1500")

    def test_sources_looked_up_by_mark(self, node: LiveNode, outside: Outside) -> None:
        """As wg-quick has it (src_valid_mark): the kernel drops what Envoy should have, over IPv4. The doctor tells."""
        setting = "/proc/sys/net/ipv4/conf/all/src_valid_mark"
        node.webs["api-server"].seen.clear()
        node.node.run(["sh", "-c", f"echo 1 > {setting}"], check=True)
        try:
            assert reaches(node, outside) == [DROPPED, *AS_SAID[1:]]
            assert node.webs["api-server"].seen == []
        finally:
            node.node.run(["sh", "-c", f"echo 0 > {setting}"], check=True)
        assert reaches(node, outside, PATIENCE) == AS_SAID

    def test_gone_and_made_again(self, node: LiveNode, outside: Outside) -> None:
        hardware = link_of(node.node, "mac0")["address"]
        ip(node.node, "link del mac0")
        node.until("it is forgotten", lambda: "mac0" not in uplinks(node))
        ip(node.node, f"link add mac0 link nic0 address {hardware} type macvlan\nlink set mac0 up")
        addressed(node)
        node.until("all works", lambda: reaches(node, outside) == AS_SAID)

    def test_a_second_one_by_which_nothing_leaves(self, node: LiveNode, outside: Outside) -> None:
        """Without an address and a route it is a way in like any other. Answers leave by the first."""
        ip(node.node, "link add mac1 link nic1 type macvlan\nlink set mac1 up")
        try:
            node.until("it is known", lambda: {"mac0", "mac1"} < set(uplinks(node)))
            hardware = link_of(node.node, "mac1")["address"]
            for way, own, there in zip(("-4", "-6"), NODE_IPS, PODS, strict=True):
                hop = ("192.0.2.77", "fe80::77")[way == "-6"]
                ip(outside, f"{way} neigh add {hop} lladdr {hardware} dev port1 nud permanent")
                ip(outside, f"{way} route replace {there} via {hop} dev port1 onlink")
                length = (32, 128)[way == "-6"]
                ip(outside, f"{way} route add {own}/{length} via {hop} dev port1 onlink")
            before = received(node.node, "mac1")
            assert reaches(node, outside, PATIENCE) == AS_SAID
            for end in outside.ips:
                assert fetch(node.frontend, end, WEB, "/public") == OK
                assert fetch(node.frontend, end, WEB, "/other") == DENIED
                assert fetch(node.node, end, OPEN_OUT) == OK
                assert get(node.node, end, SHUT_OUT) == DROPPED
            assert received(node.node, "mac1") >= before + len(AS_SAID)
        finally:
            ip(node.node, "link del mac1")
            for way, own, there in zip(("-4", "-6"), NODE_IPS, PODS, strict=True):
                outside.run(["ip", way, "route", "del", own, "dev", "port1"])
                ip(outside, f"{way} route replace {there} via {own} dev port0")
        node.until("all works", lambda: reaches(node, outside) == AS_SAID)

    def test_a_pod_on_a_macvlan_of_its_own(self, node: LiveNode, outside: Outside) -> None:
        """No program of the node's sees what it does. Whoever lists it is told; it is no way into the node."""
        pod = Namespace(f"{node.node.netns}-beside")
        ip(node.node, f"netns add {pod.netns}\nlink add beside link mac0 netns {pod.netns} type macvlan mode bridge")
        ip(pod, "addr add 192.0.2.50/24 dev beside\nlink set beside up\nroute add default via 192.0.2.1")
        try:
            entries = yaml.safe_load(node.ground.workloads_yaml())["workloads"]
            entry = {"name": "beside", "namespace": "default", "netns": pod.netns, "ips": ["192.0.2.50"]}
            node.replace(node.workloads, yaml.safe_dump({"workloads": [*entries, entry]}))
            node.until("it is told", lambda: any("beside" in each for each in node.problems()))
            assert fetch(pod, outside.ips[0], SHUT_OUT) == OK, "nobody polices it"
            for there, port in ((node.api.ipv4, 80), (node.backend.ipv4, 8080), (NODE_IPS[0], OPEN_IN)):
                assert get(pod, there, port, "/public") in (DROPPED, UNREACHABLE)
            assert reaches(node, outside, PATIENCE) == AS_SAID
        finally:
            node.list_pods()
            ip(node.node, f"netns del {pod.netns}")
        node.until("all is well", node.ok)


def addressed(node: LiveNode) -> None:
    """What an interface that was down or away has lost."""
    for way, line in (
        ("-4", "addr replace 192.0.2.1/24 dev mac0"),
        ("-6", "addr replace 2001:db8::1/64 dev mac0 nodad"),
        ("-6", "addr replace fe80::1/64 dev mac0 nodad"),
        ("-4", "route replace default via 192.0.2.9 dev mac0"),
        ("-6", "route replace default via 2001:db8::9 dev mac0"),
    ):
        ip(node.node, f"{way} {line}")


def received(namespace: Namespace, interface: str) -> int:
    """Packets."""
    return int(link_of(namespace, interface)["stats64"]["rx"]["packets"])


def link_of(namespace: Namespace, interface: str) -> dict[str, Any]:
    (link,) = json.loads(namespace.run(["ip", "-j", "-s", "link", "show", interface], check=True).stdout)
    return dict(link)


def test_a_card_that_keeps_its_address_as_a_bridges_port(node: LiveNode, outside: Outside) -> None:
    """What it hands to Envoy's socket must not go on over the bridge, which loses that: a server of the node's with the
    same port was asked instead."""
    with laid(KINDS["card"], node.node, outside):
        node.until("all works", lambda: reaches(node, outside) == AS_SAID)
        others = node.web_at(node.node, 80)
        hardware = link_of(node.node, "nic0")["address"]
        ip(node.node, f"link add br0 address {hardware} type bridge\nlink set br0 up\nlink set nic0 master br0")
        try:
            node.until("the bridge is one, too", lambda: {"br0", "nic0"} <= set(uplinks(node)))
            assert reaches(node, outside, PATIENCE) == AS_SAID
            assert others.seen == []
        finally:
            others.close()
            ip(node.node, "link del br0")


if known("bond"):

    def test_a_bond_whose_active_card_dies(node: LiveNode, outside: Outside) -> None:
        """Connections go on by the other one, judged as before."""
        with laid(MORE_KINDS["bond"][1], node.node, outside):
            node.until("all works", lambda: reaches(node, outside) == AS_SAID)
            with Line(outside, node.api.ipv4, 80) as by_request, Line(outside, node.backend.ipv6, 8080) as by_port:
                for dying in ("port0", "port1"):
                    assert str(by_request.ask("/public")) == str(by_port.ask()) == OK
                    ip(outside, f"link set {dying} down")
                    assert str(by_request.ask("/public")) == str(by_port.ask()) == OK
                    assert str(by_request.ask("/other")) == DENIED
                    assert reaches(node, outside, PATIENCE) == AS_SAID
                    ip(outside, f"link set {dying} up")
                    node.until("it is back", lambda d=dying: is_up(node, d.replace("port", "nic")))  # type: ignore[misc]

    def is_up(node: LiveNode, interface: str) -> bool:
        text = node.node.run(["cat", "/proc/net/bonding/bond0"], check=True).stdout
        _, _, about = text.partition(f"Slave Interface: {interface}\n")
        return about.startswith("MII Status: up")
