"""Containers of a real engine as workloads: discovered, policed on their bridge, followed as they come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from typing import cast

import pytest
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.container_ground import PORTS, SHOP, TILL, Capture, Ground, container_ground
from lockgate.tests.e2e.engine import KINDS, Engine, Inside
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Line, LiveNode, Web, fetch
from lockgate.tests.e2e.new_containers import EVERYWHERE, Knocking, Pair
from lockgate.tests.ethernet import Link

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: default}
spec:
  endpointSelector: {matchLabels: {com.docker.compose.service: shop}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: till}}]
    toPorts:
    - ports: [{port: http, protocol: TCP}]
      rules: {http: [{method: GET, path: "/open"}]}
    - ports: [{port: "8081", protocol: TCP}]
"""
PUBLISHED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: published, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: published}}
  ingress:
  - fromCIDR: [192.0.2.9/32]
    toPorts:
    - ports: [{port: "8081", protocol: TCP}]
    - ports: [{port: "8080", protocol: TCP}]
      rules: {http: [{path: "/open"}]}
"""
CAGED = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: caged, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: caged}}
  egress: [{toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]
"""


@pytest.fixture(scope="module", params=KINDS)
def engine_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with container_ground(request.param) as made:
        made.node.write("shop", POLICY)
        made.node.write("published", PUBLISHED)
        made.node.write("caged", CAGED)
        made.start_agent()
        yield made


@pytest.fixture
def ground(engine_ground: Ground) -> Iterator[Ground]:
    yield engine_ground
    engine_ground.clear()


def test_requests_between_two_containers_on_one_bridge(ground: Ground) -> None:
    """The frames would cross the bridge without a look from above: what Envoy is to see must come up all the same."""
    _, shop = ground.shop()
    _, till = ground.till()
    ground.node.becomes(OK, lambda: ground.ask(till, shop, "/open"))
    assert ground.ask(till, shop, "/shut") == DENIED
    assert ground.ask(till, shop, "/anything", 8081) == OK, "L4 only"
    assert set(ground.seen()) == {(till.ip, "/open"), (till.ip, "/anything")}
    with Line(cast(Namespace, till), shop.ip, 8080) as line:
        assert [str(line.ask(path)) for path in ("/open", "/shut", "/open")] == [OK, DENIED, OK]


def test_who_is_not_allowed_reaches_nobody(ground: Ground) -> None:
    _, shop = ground.shop()
    stranger = ground.engine.container("stranger")
    ground.known("default/stranger")
    for port in PORTS:
        assert ground.ask(stranger, shop, "/open", port) == DROPPED
    assert ground.seen() == []
    assert ground.ask(shop, stranger, "/") == "refused", "nothing forbids it"


def test_a_pod_of_the_workloads_file_and_a_container(ground: Ground) -> None:
    """Of another kind, another source and another network: one policy for all."""
    node = ground.node
    _, shop = ground.shop()
    pod = node.ground.pod("till-pod", labels={"app": "till"})
    try:
        node.list_pods()
        node.becomes(OK, lambda: fetch(pod, shop.ip, 8080, "/open", patience=GLANCE))
        assert fetch(pod, shop.ip, 8080, "/shut", patience=GLANCE) == DENIED
        assert fetch(node.intruder, shop.ip, 8080, "/open", patience=GLANCE) == DROPPED
    finally:
        node.remove(pod)
        node.list_pods()


def test_it_follows_start_rename_networks_and_the_end(ground: Ground) -> None:
    engine = ground.engine
    name, shop = ground.shop("--label", "lockgate.namespace=default")
    engine.docker("rename", name, "renamed")
    ground.known("default/renamed")
    ground.gone(f"default/{name}")
    engine.docker("network", "create", "backstage")
    try:
        engine.docker("network", "connect", "backstage", "renamed")
        ground.known("default/renamed.backstage")
        till = engine.container("till-backstage", *TILL, "--network", "backstage")
        stranger = engine.container("stranger-backstage", "--network", "backstage")
        ground.known("default/till-backstage")
        ground.known("default/stranger-backstage")
        second = next(ip for ip in cast(list[str], ground.endpoints()["default/renamed.backstage"]["ips"]))
        there = Inside(shop.id, shop.pid, second)
        ground.node.becomes(OK, lambda: ground.ask(till, there, "/open"))
        assert ground.ask(till, there, "/shut") == DENIED
        assert ground.ask(stranger, there, "/open") == DROPPED
        engine.docker("network", "disconnect", "backstage", "renamed")
        ground.gone("default/renamed.backstage")
        assert "default/renamed" in ground.endpoints()
    finally:
        for container in ("till-backstage", "stranger-backstage"):
            engine.docker("rm", "-f", container)
        engine.docker("network", "rm", "backstage")
    engine.docker("stop", "-t", 0, "renamed")
    ground.gone("default/renamed")
    engine.docker("start", "renamed")
    ground.known("default/renamed")
    ground.node.until("nothing is wrong", ground.node.ok)


def test_over_ipv6(ground: Ground) -> None:
    engine = ground.engine
    engine.docker("network", "create", "--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "six")
    try:
        names = []
        for options in (SHOP, TILL):
            names.append(ground.name("six"))
            engine.container(names[-1], *options, "--network", "six")
            ground.known(f"default/{names[-1]}")
        shop, till = (replace(engine.inside(name), ip=ipv6_of(engine, name)) for name in names)
        ground.serve(shop)
        ground.node.becomes(OK, lambda: ground.ask(till, shop, "/open"))
        assert ground.ask(till, shop, "/shut") == DENIED
        assert ground.ask(till, shop, "/anything", 8081) == OK
        assert {client for client, _ in ground.seen()} == {till.ip}
        assert ground.ask(shop, till, "/") == "refused"
    finally:
        for name in names:
            engine.docker("rm", "-f", name)
        engine.docker("network", "rm", "six")


def ipv6_of(engine: Engine, name: str) -> str:
    return engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}", name)


def test_from_outside_to_its_own_address(ground: Ground) -> None:
    """Over a route to its network, past what the engine translates (test_agent_published.py is about that)."""
    container = ground.engine.container("published", "--label", "app=published")
    ground.serve(container)
    ground.known("default/published")
    outside = ground.node.ground.outside()
    outside.run(["ip", "route", "replace", f"{container.ip}/32", "via", "192.0.2.1"], check=True)
    ground.node.becomes(OK, lambda: fetch(outside, container.ip, 8080, "/open", patience=GLANCE))
    assert fetch(outside, container.ip, 8080, "/shut") == DENIED


def test_a_published_port_through_a_proxy_of_the_engines(ground: Ground) -> None:
    """As Docker has it by default: over IPv6, and from containers, a process of the node connects for who asks."""
    engine, outside = ground.engine, ground.node.ground.outside()
    engine.stop()
    engine.proxies = True
    engine.start()
    try:
        guarded = engine.container("published", "--label", "app=published", "-p", "18080:8080", "-p", "18081:8081")
        free = engine.container("free", "-p", "18082:8080")
        stranger = engine.container("stranger")
        for name, inside in (("published", guarded), ("free", free)):
            ground.known(f"default/{name}")
            ground.serve(inside)
        ground.known("default/stranger")
        gateway = engine.docker("inspect", "-f", "{{.NetworkSettings.Gateway}}", "stranger")
        places: list[tuple[Namespace | Inside, str]] = [(outside, "2001:db8::1"), (stranger, gateway)]
        for where, address in places:
            for port in (18080, 18081):
                assert fetch(cast(Namespace, where), address, port, "/open", patience=GLANCE) != OK
        assert ground.seen() == []
        ground.node.becomes(OK, lambda: fetch(outside, "192.0.2.1", 18081, patience=GLANCE))
        ground.node.becomes(OK, lambda: fetch(outside, "192.0.2.1", 18082, patience=GLANCE))
        assert fetch(outside, "192.0.2.1", 18080, "/open") == OK, "that is translated, and goes through Envoy"
        assert fetch(outside, "192.0.2.1", 18080, "/shut") == DENIED
        if engine.kind == "docker":
            for where, address in places:
                assert fetch(cast(Namespace, where), address, 18082) == OK
    finally:
        engine.stop()
        engine.proxies = False
        engine.start()


def test_a_container_in_another_namespace_is_another(ground: Ground) -> None:
    _, shop = ground.shop()
    till = ground.engine.container("foreign", *TILL, "--label", "lockgate.namespace=elsewhere")
    ground.known("elsewhere/foreign")
    assert ground.ask(till, shop, "/open") == DROPPED


def test_what_cannot_be_policed_is_told(ground: Ground) -> None:
    engine = ground.engine
    _, shop = ground.shop()
    engine.container("on-the-host", "--network", "host", *TILL)
    ground.node.until(
        "it is told",
        lambda: any("container on-the-host uses the node's own network" in each for each in ground.node.problems()),
    )
    assert "default/on-the-host" not in ground.endpoints()
    engine.docker("rm", "-f", "on-the-host")
    ground.node.until("nothing is wrong", ground.node.ok)
    _, till = ground.till()
    assert ground.ask(till, shop, "/shut") == DENIED, "the others are policed all the while"


def test_an_engine_that_is_away(ground: Ground) -> None:
    """Its containers run on, and stay enforced; one that ends meanwhile is forgotten."""
    node, engine = ground.node, ground.engine
    _, shop = ground.shop()
    name, till = ground.till()
    engine.stop(signal.SIGKILL)
    node.until("it is told", lambda: any("the engine does not answer" in each for each in node.problems()))
    assert ground.ask(till, shop, "/open") == OK
    assert ground.ask(till, shop, "/shut") == DENIED
    node.end_agent(signal.SIGKILL)
    ground.start_agent(ready=False)
    ground.known(f"default/{name}")
    assert ground.ask(till, shop, "/open") == OK
    assert ground.ask(till, shop, "/shut") == DENIED
    os.kill(till.pid, signal.SIGKILL)
    ground.gone(f"default/{name}")
    engine.start()
    node.until("nothing is wrong", node.ok)
    _, another = ground.till()
    assert ground.ask(another, shop, "/open") == OK


@pytest.mark.parametrize(("port", "label", "allowed"), [(9001, "app=caged", set()), (9002, "app=free", EVERYWHERE)])
def test_the_first_packets_of_a_container(ground: Ground, port: int, label: str, allowed: set[str]) -> None:
    """Before the engine has told of it, it reaches nobody; then it reaches whom its policy lets it."""
    with closing(Knocking(ground, port, "--label", label)) as knocking:
        knocking.start()
        ground.known(f"default/{knocking.name}")
        knocking.goes_on()
        ground.node.until("it reaches whom it may", lambda: knocking.reached() >= allowed)
        assert knocking.reached() == allowed


def test_containers_that_start_while_no_agent_runs(ground: Ground) -> None:
    """They reach nobody, and nobody reaches them, until the next agent has come."""
    node = ground.node
    with closing(Knocking(ground, 9003)) as free, closing(Knocking(ground, 9004, "--label", "app=caged")) as caged:
        node.end_agent(signal.SIGKILL)
        inside = free.start()
        caged.start()
        ground.serve(inside)
        free.goes_on()
        caged.goes_on()
        assert free.reached() == caged.reached() == set()
        assert fetch(node.node, inside.ip, 8080, patience=GLANCE) == DROPPED, "of the node itself"
        assert ground.seen() == []
        ground.start_agent()
        ground.known(f"default/{free.name}")
        node.until("it reaches everybody", lambda: free.reached() == EVERYWHERE)
        node.becomes(OK, lambda: fetch(node.node, inside.ip, 8080, patience=GLANCE))
        caged.goes_on()
        assert caged.reached() == set()


def test_they_do_not_reach_each_other_either(ground: Ground) -> None:
    """On one bridge, whatever they send. Those that were known go on."""
    node = ground.node
    _, shop = ground.shop()
    _, till = ground.till()
    ground.node.becomes(OK, lambda: ground.ask(till, shop, "/open"))
    before, witness = ground.seen(), Link(shop.path)
    node.end_agent(signal.SIGKILL)
    with closing(witness), closing(Pair(ground)) as free, closing(Pair(ground, "--label", "app=caged")) as caged:
        for pair in (free, caged):
            assert pair.passes() == set()
            assert ground.ask(pair.one, pair.two, "/") == DROPPED
            assert ground.ask(till, pair.two, "/") == DROPPED, "nor does somebody known reach them"
        assert sorted(ground.seen()) == sorted(before)
        assert witness.received() == set(), "nor does it come to others"
        assert ground.ask(till, shop, "/open") == OK
        assert ground.ask(till, shop, "/shut") == DENIED
        ground.start_agent()
        for pair in (free, caged):
            pair.known()
        node.becomes(OK, lambda: ground.ask(free.one, free.two, "/"))
        assert ground.ask(caged.one, caged.two, "/") == DROPPED
        assert node.lockgate("datapath", "status", "-o", "json").data["newcomers"]["mute"]


def test_a_network_that_is_made_while_no_agent_runs(ground: Ground) -> None:
    """Its bridge is known by its name: outside, the node and each other are out of reach."""
    node, engine = ground.node, ground.engine
    outside = node.ground.outside()
    ground.shop()  # the agent has to have a network of the engine's
    node.end_agent(signal.SIGKILL)
    engine.docker("network", "create", "meanwhile")
    try:
        with (
            closing(Pair(ground, "--network", "meanwhile")) as pair,
            closing(Capture(outside)) as away,
            closing(Web(node.node, 9006)) as door,
        ):
            gateway = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "meanwhile")
            assert pair.passes() == set()
            assert ground.ask(pair.one, pair.two, "/") == DROPPED
            for address in (str(outside.ips[0]), gateway):
                assert fetch(cast(Namespace, pair.one), address, 9006, patience=GLANCE) == DROPPED
            assert fetch(node.node, pair.two.ip, 8080, patience=GLANCE) == DROPPED
            assert (away.ports.count(9006), door.seen, ground.seen()) == (0, [], [])
            ground.start_agent()
            pair.known()
            node.becomes(OK, lambda: ground.ask(pair.one, pair.two, "/"))
            assert fetch(cast(Namespace, pair.one), gateway, 9006) == OK
    finally:
        ground.clear()
        engine.docker("network", "rm", "meanwhile")


def test_unknown_containers_may_be_let_be(ground: Ground) -> None:
    """What the guard does not do then; and an agent that guards again takes up what is there."""
    node = ground.node
    node.end_agent()
    ground.start_agent(more="unknown_containers: allow\n")
    with closing(Knocking(ground, 9005)) as let:
        assert bridges(node) == []
        node.end_agent(signal.SIGKILL)
        let.start()
        node.until("it reaches everybody", lambda: let.reached() == EVERYWHERE)
        ground.start_agent()
        ground.known(f"default/{let.name}")
        assert bridges(node) != []


def bridges(node: LiveNode) -> list[str]:
    return list(node.lockgate("datapath", "status", "-o", "json").data["bridges"])


def test_who_is_no_container_on_an_engines_bridge_is_cut_off_and_told(ground: Ground) -> None:
    node = ground.node
    name, shop = ground.shop()
    known, till = ground.till()  # which no policy selects
    ground.serve(till)
    bridge = bridges(node)[0]
    stray = node.ground.pod("stray")
    address = ip_address(till.ip) + 100
    ends = ("--from", address, "--to", known, "--port", 8080)
    try:
        stray.run(["ip", "addr", "add", f"{address}/16", "dev", "eth0"], check=True)
        node.node.run(["ip", "link", "set", stray.interface, "master", bridge], check=True)
        node.until(
            "it is told",
            lambda: any(f"{stray.interface} on bridge {bridge} is no container" in each for each in node.problems()),
        )
        assert fetch(stray, till.ip, 8080, patience=GLANCE) == DROPPED
        explained = node.lockgate("policy", "explain", *ends, "--http", "GET /")
        assert (explained.status, explained.out.partition(" ")[0]) == (1, "DENY")
        assert f"{address} is in " in explained.out and "a network of a container engine" in explained.out
        assert node.lockgate("policy", "explain", "--from", "192.0.2.9", *ends[2:]).status == 0
    finally:
        node.remove(stray)
    node.until("nothing is wrong", node.ok)
    assert f"default/{name}" in ground.endpoints()
    assert ground.ask(shop, shop, "/open") == OK
