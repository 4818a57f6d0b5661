"""One node with an engine for all tests of published ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest
from lockgate.agent.playground import Namespace, Outside
from lockgate.tests.e2e.container_ground import Ground, container_ground
from lockgate.tests.e2e.engine import KINDS
from lockgate.tests.e2e.live_node import DROPPED, GLANCE, Web, fetch
from lockgate.tests.e2e.published.ground import NODE, OTHER, PLAIN, POLICED, publish, say


@pytest.fixture(scope="package", params=KINDS)
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


@pytest.fixture(params=["with the node's address", "with its own"])
def beyond(ground: Ground, request: pytest.FixtureRequest) -> Iterator[tuple[Namespace, Namespace]]:
    """Two containers on another network, one that may ask and one that may not. Docker's own rules separate its
    networks, unless somebody lets them meet; both engines give who asks another network the node's address."""
    engine = ground.engine
    own = request.param == "with its own"
    options = ["-o", "com.docker.network.bridge.enable_ip_masquerade=false"] if own else []
    met = ["DOCKER-USER", "-j", "ACCEPT"]
    if own and engine.kind == "podman":
        met = ["POSTROUTING", "-t", "nat", "-s", "10.79.0.0/24", "-j", "ACCEPT"]
    publish(ground)
    engine.docker("network", "create", "--subnet", "10.79.0.0/24", *options, "beyond")
    try:
        made = [
            engine.container(f"b-{name}", "--network", "beyond", "--label", f"app={name}") for name in ("asks", "not")
        ]
        for name in ("asks", "not"):
            ground.known(f"default/b-{name}")
        if engine.kind == "docker" or own:
            if engine.kind == "docker":
                assert fetch(cast(Namespace, made[0]), NODE, PLAIN, patience=GLANCE) == DROPPED
            engine.run(["iptables", "-I", *met])
        yield cast(Namespace, made[0]), cast(Namespace, made[1])
        if engine.kind == "docker" or own:
            engine.run(["iptables", "-D", *met])
    finally:
        engine.docker("rm", "-f", "b-asks", "b-not")
        engine.docker("network", "rm", "beyond")
