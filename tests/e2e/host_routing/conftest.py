"""One node with host routing for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.agent.playground import Pod
from lockgate.tests.e2e.datapath_node import Node


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("straight"), host_routing=True)
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def node(shared: Node) -> Node:
    """Everybody may do anything."""
    shared.enforce()
    shared.web.log.clear()
    return shared


@pytest.fixture
def late(node: Node) -> Iterator[Pod]:
    """A pod that may come to harm."""
    made = node.ground.pod("late")
    node.pods.append(made)
    node.inside(lambda: node.datapath.attach(node.endpoint(made)))
    node.enforce()
    try:
        yield made
    finally:
        if made in node.pods:
            node.pods.remove(made)
        node.ground.remove(made)
