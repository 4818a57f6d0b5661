"""The nodes of all tests of a run, in clusters whose control plane is real."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from lockgate.tests.cluster.daemonset_node import DaemonSetNode
from lockgate.tests.cluster.load import ALLOWED
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.cluster.whole_cluster import CONTAINERD, DOCKER, whole_cluster
from lockgate.tests.e2e.cluster_node import ClusterNode, cluster_node
from lockgate.tests.e2e.live_node import DENIED, OK
from lockgate.tests.e2e.test_agent_kubernetes import POLICY, ask


def pytest_configure(config: pytest.Config) -> None:
    """Whoever ends the run by SIGTERM gets what Ctrl-C gets: everything that was started is taken away."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


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


@pytest.fixture(scope="session", params=[DOCKER, CONTAINERD], ids=str)
def daemonset(request: pytest.FixtureRequest) -> Iterator[DaemonSetNode]:
    """A node on which the DaemonSet's pod polices three others."""
    with whole_cluster(request.param) as (made,):
        yield made


@pytest.fixture
def policed(daemonset: DaemonSetNode) -> DaemonSetNode:
    """With the policy, and all well."""
    daemonset.kubectl("apply", "-f", "-", input=POLICY)
    daemonset.becomes_ready()
    daemonset.live.becomes(DENIED, lambda: daemonset.asks("frontend", "/shut"))
    daemonset.live.becomes(ALLOWED, lambda: daemonset.asks("frontend", "/open"))
    daemonset.live.until("all is well", daemonset.live.ok)
    return daemonset


@pytest.fixture
def cluster(running: ClusterNode) -> ClusterNode:
    running.api.apply(POLICY)
    running.live.becomes(DENIED, lambda: ask(running, "/shut"))
    running.live.becomes(OK, lambda: ask(running, "/open"))
    return running
