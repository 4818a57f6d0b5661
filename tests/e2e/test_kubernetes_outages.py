"""A node of a cluster whose API does not answer, forgets, or answers nonsense: what was known of it stays enforced."""

from __future__ import annotations

import signal

import pytest
from lockgate.tests.e2e.cluster_node import ClusterNode
from lockgate.tests.e2e.live_node import DENIED, DROPPED, OK, PATIENCE
from lockgate.tests.e2e.test_agent_kubernetes import (  # noqa: F401
    BROKEN,
    POLICY,
    WIDER,
    ask,
    policed_cluster,
    running_node,
)


def test_watches_that_end_go_on_where_they_were(cluster: ClusterNode) -> None:
    """With bookmarks also when the history of the server has not what came before them."""
    api = cluster.api
    lists = api.asked("list", "ciliumnetworkpolicies")
    api.do(api.store.bookmark)
    api.do(api.store.forget)
    api.do(api.store.end_watches)
    api.apply(WIDER)
    cluster.live.becomes(OK, lambda: ask(cluster, "/ok"))
    assert api.asked("list", "ciliumnetworkpolicies") == lists


@pytest.mark.parametrize("late", [False, True], ids=["answer", "event"])
def test_a_server_that_has_forgotten_is_asked_for_everything(cluster: ClusterNode, late: bool) -> None:
    api, live = cluster.api, cluster.live
    lists = api.asked("list", "ciliumnetworkpolicies")
    api.handler.late_expiry = late
    live.until("policies are watched", lambda: "ciliumnetworkpolicies" in api.watching())

    def change() -> None:
        api.store.end_watches()
        api.store.delete("ciliumnetworkpolicies", "default", "shop")
        api.store.forget()

    api.do(change)
    live.becomes(OK, lambda: ask(cluster, "/shut", "intruder"))
    assert api.asked("list", "ciliumnetworkpolicies") > lists
    assert ask(cluster, "/open") == OK


def test_nonsense_changes_nothing(cluster: ClusterNode) -> None:
    api = cluster.api
    old = api.get("ciliumnetworkpolicies", "shop")
    api.apply(WIDER)
    cluster.live.becomes(OK, lambda: ask(cluster, "/ok"))
    stale = [{"type": "MODIFIED", "object": old}, {"type": "DELETED", "object": old}]
    api.do(lambda: api.store.disturb(stale, "ciliumnetworkpolicies"))
    api.do(lambda: api.store.disturb([{"type": "ADDED", "object": {"metadata": 7}}], "ciliumnetworkpolicies"))
    api.do(lambda: api.store.disturb([{"type": "ERROR", "object": {"code": 500}}], "ciliumnetworkpolicies"))
    api.apply(POLICY)
    cluster.live.becomes(DENIED, lambda: ask(cluster, "/ok"))
    cluster.live.until("all is well", cluster.live.ok)


def test_the_api_is_gone(cluster: ClusterNode) -> None:
    """What was known stays enforced, also by an agent that starts meanwhile."""
    live = cluster.live
    cluster.api.stop()
    cluster.told("cannot be followed (")
    cluster.told("what was known of them stays enforced")
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    live.end_agent(signal.SIGKILL)
    cluster.start_agent(ready=False)
    cluster.known("default/api-server")
    cluster.told("cannot be followed (")
    live.until("a revision is in force", lambda: live.status()["agent"]["revision"] > 0)
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    cluster.api.put(
        "ciliumnetworkpolicies", {"metadata": {"name": "shop"}, "spec": {"endpointSelector": {}, "ingress": [{}]}}
    )
    cluster.api.start()
    live.becomes(DROPPED, lambda: ask(cluster, "/open"))
    live.until("all is well", live.ok)


def test_an_agent_that_knows_nothing_does_not_start_without_the_api(cluster: ClusterNode) -> None:
    live = cluster.live
    live.end_agent()
    memory = live.folder / "state" / "kubernetes.db"
    memory.rename(memory.with_suffix(".away"))
    cluster.api.handler.failing["pods"] = (500, "etcd is away")
    cluster.start_agent(ready=False)
    assert live.agent is not None and live.agent.wait(PATIENCE) == 1
    live.agent = None
    assert "pods cannot be listed, and no agent before this one knew them: 500 etcd is away" in live.log
    assert (ask(cluster, "/open"), ask(cluster, "/shut")) == (OK, DENIED), "the kernel and Envoy go on"
    cluster.api.handler.failing.clear()
    cluster.start_agent()
    assert ask(cluster, "/shut") == DENIED
