"""Containers of a real engine as workloads: discovered, policed on their bridge, followed as they come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

import pytest
from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.engine import KINDS, Engine, Inside
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Line, LiveNode, Web, fetch, live_node

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
SHOP = ("--label", "com.docker.compose.service=shop", "--label", "lockgate.ports=http=8080")
TILL = ("--label", "app=till")
PORTS = 8080, 8081


class Ground:
    """A node with an engine in it, a pod beside the engine, and the agent following both."""

    def __init__(self, node: LiveNode, engine: Engine) -> None:
        self.node, self.engine = node, engine
        self.webs: list[Web] = []
        self._named = 0

    def start_agent(self, ready: bool = True) -> None:
        config = self.node.folder / "config.yaml"
        config.write_text(f"engines: ['{self.engine.url}']\n")
        self.node.start_agent("--config", config, ready=ready)

    def endpoints(self) -> dict[str, dict[str, object]]:
        try:
            listed = ask(self.node.run_dir, "/v1/endpoints")
        except UnreachableError:
            return {}
        return {str(each["endpoint"]): each for each in listed}

    def known(self, name: str) -> None:
        """Waits until the agent polices it."""
        self.node.until(f"{name} is policed", lambda: bool(self.endpoints().get(name, {}).get("id")))

    def gone(self, name: str) -> None:
        self.node.until(f"{name} is no endpoint", lambda: name not in self.endpoints())

    def name(self, what: str) -> str:
        self._named += 1
        return f"{what}-{self._named}"

    def shop(self, *options: object) -> tuple[str, Inside]:
        """A container with servers, policed."""
        name = self.name("shop")
        inside = self.engine.container(name, *SHOP, *options)
        self.serve(inside)
        self.known(f"default/{name}")
        return name, inside

    def till(self, *options: object) -> tuple[str, Inside]:
        """A container that may ask a shop."""
        name = self.name("till")
        inside = self.engine.container(name, *TILL, *options)
        self.known(f"default/{name}")
        return name, inside

    def serve(self, inside: Inside) -> None:
        self.webs += [Web(cast(Namespace, inside), port) for port in PORTS]

    def seen(self) -> list[tuple[str, str]]:
        return [(each.client, each.path) for web in self.webs for each in web.seen]

    def ask(self, client: Inside, server: Inside, path: str, port: int = 8080) -> str:
        return fetch(cast(Namespace, client), server.ip, port, path, patience=GLANCE * 3)


@pytest.fixture(scope="module", params=KINDS)
def engine_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with ExitStack() as stack:
        node = stack.enter_context(live_node(start=False))
        # As on a machine: a bridge asks for its neighbours from a link-local address.
        node.node.run(["sysctl", "-w", "net.ipv6.conf.default.addr_gen_mode=0"], check=True)
        engine = Engine(request.param, node.node, node.folder / "e")
        stack.callback(engine.close)
        # The engine's own rules forward nothing but its containers' traffic; this is about ours.
        engine.run(["iptables", "-P", "FORWARD", "ACCEPT"])
        for path in node.policies.iterdir():
            path.unlink()
        node.write("shop", POLICY)
        node.write("published", PUBLISHED)
        node.ground.outside()
        made = Ground(node, engine)
        made.start_agent()
        yield made
        for web in made.webs:
            web.close()


@pytest.fixture
def ground(engine_ground: Ground) -> Iterator[Ground]:
    yield engine_ground
    for web in engine_ground.webs:
        web.close()
    engine_ground.webs.clear()
    for number in engine_ground.engine.docker("ps", "-aq").split():
        engine_ground.engine.docker("rm", "-f", number)


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


def test_a_published_port(ground: Ground) -> None:
    """The engine translates the address after the uplink's program: only Envoy is out of reach."""
    options = ("--label", "app=published", "-p", "18080:8080", "-p", "18081:8081")
    container = ground.engine.container("published", *options)
    ground.serve(container)
    ground.known("default/published")
    outside = ground.node.ground.outside()
    node_ip = "192.0.2.1"
    ground.node.becomes(OK, lambda: fetch(outside, node_ip, 18081, patience=GLANCE))
    assert fetch(outside, node_ip, 18080, "/open", patience=GLANCE) == DROPPED
    assert set(ground.seen()) == {(str(outside.ips[0]), "/")}


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
