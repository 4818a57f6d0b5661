"""One node for all tests of a run, in a cluster whose control plane is real."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import ClusterNode, cluster_node
from lockgate.tests.e2e.live_node import DENIED, OK
from lockgate.tests.e2e.test_agent_kubernetes import POLICY, ask


@pytest.fixture(scope="session")
def idle() -> Iterator[ClusterNode]:
    """No agent runs yet."""
    with cluster_node(lambda live: RealApi(live.folder / "api", live.node)) as made:  # type: ignore[arg-type, return-value]
        yield made


@pytest.fixture(scope="session")
def api(idle: ClusterNode) -> RealApi:
    assert isinstance(idle.api, RealApi)
    return idle.api


@pytest.fixture(scope="session")
def running(idle: ClusterNode) -> ClusterNode:
    """The article's pods, and the agent with the service account of the manifest."""
    idle.begin()
    return idle


@pytest.fixture
def cluster(running: ClusterNode) -> ClusterNode:
    running.api.apply(POLICY)
    running.live.becomes(DENIED, lambda: ask(running, "/shut"))
    running.live.becomes(OK, lambda: ask(running, "/open"))
    return running
