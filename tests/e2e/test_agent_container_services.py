"""Services' own addresses with containers: those that ask, and those that serve. Who asks is a process in a container
(`docker exec`), in whatever cgroup the engine has put it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import cast

import pytest
from lockgate.agent.playground import Namespace
from lockgate.tests.e2e.container_ground import Ground, container_ground
from lockgate.tests.e2e.engine import KINDS, Inside
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, REFUSED, Web, fetch

VIP, VIP6, VIP_LOCKED = "10.96.0.10", "fd00:96::10", "10.96.0.11"
SERVICES = """
services:
- name: shop
  selector: {app: shop}
  vips: [10.96.0.10]
  ports: [{port: 80, targetPort: http}]
  health: {http: /healthz, interval: 0.2, timeout: 2, rise: 1, fall: 2}
- name: locked
  selector: {app: locked}
  vips: [10.96.0.11]
  ports: [{port: 80, targetPort: 8080}]
- name: six
  selector: {app: six}
  vips: ["fd00:96::10"]
  ports: [{port: 80, targetPort: 8080}]
"""
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: shop}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: till}}]
    toPorts: [{ports: [{port: http, protocol: TCP}], rules: {http: [{path: "/open"}, {path: "/name"}]}}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: locked, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: locked}}
  ingress: [{fromEndpoints: [{matchLabels: {app: nobody}}]}]
"""
SHOP = ("--label", "app=shop", "--label", "lockgate.ports=http=8080")
TILL = ("--label", "app=till")


@pytest.fixture(scope="module", params=KINDS)
def engine_ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with container_ground(request.param) as made:
        made.node.write("policies", POLICY)
        made.node.replace(made.node.workloads, made.node.ground.workloads_yaml() + SERVICES)
        made.start_agent(ready=False)  # nobody serves yet, which is a problem
        yield made


@pytest.fixture
def ground(engine_ground: Ground) -> Iterator[Ground]:
    yield engine_ground
    engine_ground.clear()


def container(ground: Ground, what: str, *options: object) -> tuple[str, Inside]:
    name = ground.name(what)
    inside = ground.engine.container(name, *options)
    ground.known(f"default/{name}")
    return name, inside


def server(ground: Ground, what: str, *options: object) -> tuple[str, Inside, Web]:
    name, inside = container(ground, what, *options)
    web = Web(cast(Namespace, inside), 8080)
    ground.webs.append(web)
    return name, inside, web


# Static programs of Debian's look up no names, and its wget wants one. The end of nc's input would be the connection's.
ASK = '(printf "GET $3 HTTP/1.1\\r\\nHost: shop\\r\\nConnection: close\\r\\n\\r\\n"; sleep 0.3) | nc -w 2 $1 $2'


def ask(ground: Ground, client: str, path: str, vip: str = VIP, port: int = 80) -> str:
    """The status of an answer, or in what way there was none."""
    said = ground.engine.execute(client, "sh", "-c", ASK, "sh", vip, port, path)
    if said.startswith("HTTP/1."):
        return said.split()[1]
    return REFUSED if "refused" in said else DROPPED if "timed out" in said else said


def serving(ground: Ground, service: str) -> set[str]:
    listed = ground.node.lockgate("service", "list", "-o", "json").data
    found = [each["backends"] for each in listed if each["service"] == f"default/{service}"]
    return {str(backend["address"]) for backends in found for backend in backends if backend["serves"]}


def serve(ground: Ground, *servers: Inside, service: str = "shop") -> None:
    """Waits until these are the ones who serve."""
    wanted = {each.ip for each in servers}
    ground.node.until(f"{service} is served", lambda: serving(ground, service) == wanted)


def clients(web: Web) -> set[str]:
    """Who got through, but for the agent that asks for health."""
    return {each.client for each in list(web.seen) if each.path != "/healthz"}


def test_containers_ask_and_serve(ground: Ground) -> None:
    _, one, web_one = server(ground, "one", *SHOP)
    _, two, web_two = server(ground, "two", *SHOP)
    till, inside = container(ground, "till", *TILL)
    serve(ground, one, two)
    ground.node.becomes(OK, lambda: ask(ground, till, "/open"))

    def both_were_asked() -> bool:
        return ask(ground, till, "/open") == OK and bool(clients(web_one)) and bool(clients(web_two))

    ground.node.until("both are asked", both_were_asked)
    assert clients(web_one) == clients(web_two) == {inside.ip}, "a backend sees who asks"
    assert ask(ground, till, "/shut") == "403", "Envoy judges the requests"
    assert ask(ground, till, "/open", port=81) == REFUSED


def test_policies_judge_the_backend(ground: Ground) -> None:
    _, shop, web = server(ground, "shop", *SHOP)
    _, locked, locked_web = server(ground, "locked", "--label", "app=locked")
    till, _ = container(ground, "till", *TILL)
    stranger, _ = container(ground, "stranger")
    serve(ground, shop)
    serve(ground, locked, service="locked")
    ground.node.becomes(OK, lambda: ask(ground, till, "/open"))
    assert ask(ground, stranger, "/open") == DROPPED
    assert ask(ground, till, "/open", VIP_LOCKED) == DROPPED
    assert len(clients(web)) == 1
    assert clients(locked_web) == set()


def test_pods_and_the_node_ask_containers(ground: Ground) -> None:
    node = ground.node
    _, shop, _ = server(ground, "shop", *SHOP)
    pod = node.ground.pod("till-pod", labels={"app": "till"})
    try:
        node.replace(node.workloads, node.ground.workloads_yaml() + SERVICES)
        ground.known("default/till-pod")
        serve(ground, shop)
        node.becomes(OK, lambda: fetch(pod, VIP, 80, "/open", patience=GLANCE))
        assert fetch(pod, VIP, 80, "/shut", patience=GLANCE) == DENIED
        node.becomes(OK, lambda: fetch(node.node, VIP, 80, "/shut", patience=GLANCE))
    finally:
        node.remove(pod)
        node.replace(node.workloads, node.ground.workloads_yaml() + SERVICES)


def test_containers_stop_and_start(ground: Ground) -> None:
    """A backend that stops is asked no more; a client that starts anew, in a new namespace, is served as before."""
    engine = ground.engine
    name, one, _ = server(ground, "one", *SHOP)
    _, two, web_two = server(ground, "two", *SHOP)
    till, _ = container(ground, "till", *TILL)
    serve(ground, one, two)
    engine.docker("stop", "-t", 0, name)
    serve(ground, two)
    ground.node.becomes(OK, lambda: ask(ground, till, "/open"))
    assert [ask(ground, till, "/open") for _ in range(4)] == [OK] * 4
    engine.docker("restart", "-t", 0, till)
    ground.node.becomes(OK, lambda: ask(ground, till, "/open"))
    assert engine.inside(till).ip in clients(web_two)
    engine.docker("start", name)
    again = engine.inside(name)
    ground.webs.append(Web(cast(Namespace, again), 8080))
    serve(ground, again, two)


def test_over_ipv6(ground: Ground) -> None:
    engine = ground.engine
    engine.docker("network", "create", "--ipv6", "--subnet", "10.78.0.0/24", "--subnet", "fd00:78::/64", "six")
    try:
        _, _, web = server(ground, "six", "--label", "app=six", "--network", "six")
        till, _ = container(ground, "till", "--network", "six")
        ground.node.becomes(OK, lambda: ask(ground, till, "/", VIP6))
        assert all(client.startswith("fd00:78:") for client in clients(web))
    finally:
        ground.clear()
        engine.docker("network", "rm", "six")


def test_while_no_agent_runs(ground: Ground) -> None:
    """Who is known is served on; who starts meanwhile gets nowhere, and is served when the next agent knows it."""
    node = ground.node
    _, shop, web = server(ground, "shop", *SHOP)
    till, inside = container(ground, "till", *TILL)
    serve(ground, shop)
    node.becomes(OK, lambda: ask(ground, till, "/open"))
    node.end_agent(signal.SIGKILL)
    assert ask(ground, till, "/open") == OK
    late = ground.name("late")
    ground.engine.container(late, *TILL)
    assert ask(ground, late, "/open") == DROPPED
    assert clients(web) == {inside.ip}
    ground.start_agent(ready=False)
    ground.known(f"default/{late}")
    node.becomes(OK, lambda: ask(ground, late, "/open"))
