"""A node in a cluster whose API is real. What tests/e2e/test_agent_kubernetes.py asks of our own API server holds here
too; the rest is what only a real one does: it starts with an empty memory of changes, etcd goes away, tokens end."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator

import pytest
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import ClusterNode
from lockgate.tests.e2e.live_node import DENIED, DROPPED, OK
from lockgate.tests.e2e.test_agent_kubernetes import (
    BROKEN,
    POLICY,
    WIDER,
    ask,
    test_a_pod_is_policed_before_the_api_knows_its_address,
    test_a_pod_whose_sandbox_is_made_anew,
    test_a_policy_made_through_the_api_is_enforced,
    test_a_secret_that_a_policy_names,
    test_a_service_leads_to_its_ready_endpoints,
    test_authors_see_what_was_made_of_their_policies,
    test_kubernetes_network_policies_and_clusterwide_ones,
    test_pods_come_and_go,
    test_pods_of_other_nodes_and_labels_of_namespaces,
    test_what_an_object_says_wrongly,
)

__all__ = [
    "test_a_pod_is_policed_before_the_api_knows_its_address",
    "test_a_pod_whose_sandbox_is_made_anew",
    "test_a_policy_made_through_the_api_is_enforced",
    "test_a_secret_that_a_policy_names",
    "test_a_service_leads_to_its_ready_endpoints",
    "test_authors_see_what_was_made_of_their_policies",
    "test_kubernetes_network_policies_and_clusterwide_ones",
    "test_pods_come_and_go",
    "test_pods_of_other_nodes_and_labels_of_namespaces",
    "test_what_an_object_says_wrongly",
]


def follows(cluster: ClusterNode) -> None:
    """What is changed now is enforced."""
    cluster.api.apply(WIDER)
    cluster.live.becomes(OK, lambda: ask(cluster, "/ok"))
    cluster.api.apply(POLICY)
    cluster.live.becomes(DENIED, lambda: ask(cluster, "/ok"))
    cluster.live.until("all is well", cluster.live.ok)


def test_authors_see_it_with_kubectl(cluster: ClusterNode, api: RealApi) -> None:
    def shown() -> list[str]:
        return (api.plane.kubectl("get", "cnp", "shop", "--no-headers") or "").split()

    cluster.live.until("it is told to be valid", lambda: shown()[:2] == ["shop", "True"])
    api.apply(BROKEN)
    cluster.live.until("it is told to be invalid", lambda: shown()[:2] == ["shop", "False"])


@pytest.mark.parametrize("gracefully", [False, True], ids=["killed", "ended"])
def test_a_server_that_comes_back_remembers_no_changes(cluster: ClusterNode, api: RealApi, gracefully: bool) -> None:
    api.plane.stop_server(signal.SIGTERM if gracefully else signal.SIGKILL)
    cluster.told("cannot be followed (")
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    api.start()
    api.plane.compact()
    cluster.live.until("all is well", cluster.live.ok)
    follows(cluster)


def test_an_agent_that_starts_while_the_api_is_gone(cluster: ClusterNode, api: RealApi) -> None:
    live = cluster.live
    api.stop()
    live.end_agent(signal.SIGKILL)
    cluster.start_agent(ready=False)
    cluster.known("default/api-server")
    cluster.told("cannot be followed (")
    live.until("a revision is in force", lambda: live.status()["agent"]["revision"] > 0)
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    api.start()
    live.until("all is well", live.ok)
    follows(cluster)


def test_etcd_goes_away_and_comes_back(cluster: ClusterNode, api: RealApi) -> None:
    api.plane.stop_etcd()
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    api.plane.start_etcd()
    cluster.live.until("the API is there", lambda: api.plane.kubectl("get", "cnp") is not None)
    follows(cluster)


def test_etcd_is_set_back_to_a_backup(cluster: ClusterNode, api: RealApi) -> None:
    """Versions begin again below those that the agent knows: what it knows of the later ones is not to be kept."""
    plane, live = api.plane, cluster.live
    saved = plane.folder / "saved"
    api.stop()
    plane.stop_etcd()
    shutil.copytree(plane.folder / "etcd", saved)
    plane.start_etcd()
    api.start()
    live.until("all is well", live.ok)
    for number in range(200):
        api.put("namespaces", {"metadata": {"name": "busy", "labels": {"count": str(number)}}})
    api.apply(WIDER)
    live.becomes(OK, lambda: ask(cluster, "/ok"))
    api.stop()
    plane.stop_etcd()
    shutil.rmtree(plane.folder / "etcd")
    saved.rename(plane.folder / "etcd")
    plane.start_etcd()
    api.start()
    live.becomes(DENIED, lambda: ask(cluster, "/ok"))
    live.until("all is well", live.ok)
    follows(cluster)


@pytest.fixture
def bound(api: RealApi) -> Iterator[Callable[[], None]]:
    """The agent has a token that ends when this is called."""
    told = api.put("secrets", {"metadata": {"name": "bound", "namespace": "lockgate"}})
    first = api.token_file.read_text()
    reference = {"kind": "Secret", "apiVersion": "v1", "name": "bound", "uid": told["metadata"]["uid"]}
    api.token_file.write_text(api.token(reference))
    yield lambda: api.delete("secrets", "bound", "lockgate")
    api.token_file.write_text(first)


def test_a_token_that_ends_and_its_successor(cluster: ClusterNode, api: RealApi, bound: Callable[[], None]) -> None:
    """The file is read whenever something is asked, as the kubelet changes it every hour."""
    live = cluster.live
    api.stop()
    api.start()
    live.until("all is well with a token that is bound", live.ok)
    bound()
    api.stop()
    api.start()
    cluster.told("cannot be followed (401 Unauthorized)")
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    api.token_file.write_text(api.token())
    live.until("all is well", live.ok)
    follows(cluster)
