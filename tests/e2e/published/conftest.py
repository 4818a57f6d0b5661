"""One node with an engine for all tests of published ports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from lockgate.agent.playground import Outside
from lockgate.tests.e2e.container_ground import Ground, container_ground
from lockgate.tests.e2e.engine import KINDS
from lockgate.tests.e2e.live_node import Web
from lockgate.tests.e2e.published.ground import OTHER, POLICED, say


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
