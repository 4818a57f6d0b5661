"""Pods of Kubernetes that the agent has not seen: cut off until it has, whether one runs or not."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, fetch
from lockgate.tests.e2e.unseen_pods import BRIDGED, EVERYBODY, PODCIDRS, PORT, ROUTED, UnseenPods, unseen_pods

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: "/open"}]}
  - toPorts: [{ports: [{port: "9017", protocol: TCP}, {port: "9053", protocol: UDP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: caged, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: caged}}
  egress: [{toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]
"""


@pytest.fixture(scope="module", params=[ROUTED, BRIDGED])
def made(request: pytest.FixtureRequest) -> Iterator[UnseenPods]:
    with unseen_pods(request.param) as pods:
        pods.cluster.api.apply(POLICY)
        pods.live.becomes(DENIED, lambda: ask(pods, "/shut"))
        yield pods


@pytest.fixture
def pods(made: UnseenPods) -> UnseenPods:
    made.live.until("all is well", made.live.ok)
    return made


def ask(pods: UnseenPods, path: str) -> str:
    return fetch(pods.live.frontend, pods.live.api.ipv4, 80, path, patience=GLANCE * 2)


def told(pods: UnseenPods) -> dict[str, object]:
    return dict(pods.live.lockgate("datapath", "status", "-o", "json").data["unseen_pods"])


def test_nobody_is_reached_until_the_api_has_told_of_it(pods: UnseenPods) -> None:
    """And status says that somebody is cut off."""
    new = pods.pod(app="frontend")
    try:
        assert pods.reached(new) == set()
        assert pods.reached_by(new) == set()
        pods.cluster.told(f"{new.interface}{' on bridge cni0' if pods.kind == BRIDGED else ''} is no pod of this node")
        assert pods.reached(new) == pods.reached_by(new) == set()
        shown = told(pods)
        assert (shown["cut_off"], shown["prefixes"]) == (True, sorted(PODCIDRS))
        explained = pods.live.lockgate("policy", "explain", "--from", new.ipv4, "--to", "api-server", "--port", PORT)
        assert (explained.status, explained.out.partition(" ")[0]) == (1, "DENY")
        assert "or of this node's pods, and none of these that is known" in explained.out
        pods.tell(new)
        pods.live.becomes(OK, lambda: fetch(new, pods.live.api.ipv4, 80, "/open", patience=GLANCE))
        assert fetch(new, pods.live.api.ipv4, 80, "/shut", patience=GLANCE * 2) == DENIED
        assert pods.reached(new) == pods.reached_by(new) == EVERYBODY
        assert fetch(pods.live.node, new.ipv4, PORT) == OK, "as a kubelet asks"
    finally:
        pods.remove(new)


def test_pods_that_start_while_no_agent_runs(pods: UnseenPods) -> None:
    """They reach nobody and nobody reaches them, nor each other, until the next agent has seen them."""
    live = pods.live
    known = pods.pod(app="other")
    pods.tell(known)
    pods.cluster.known(f"default/{known.name}")
    live.becomes(OK, lambda: fetch(known, live.api.ipv4, PORT, patience=GLANCE))
    live.until("names and bridges are learned", lambda: not live.problems())
    live.end_agent(signal.SIGKILL)
    free, caged = pods.pod(app="other"), pods.pod(app="caged")
    try:
        for new in (free, caged):
            pods.tell(new)
            assert pods.reached(new) == set()
            assert pods.reached_by(new) == set()
            assert pods.passes(new, known) == pods.passes(known, new) == set()
            assert pods.passes(new, live.api) == set(), "from whatever address"
        assert pods.passes(free, caged) == set()
        assert (ask(pods, "/open"), ask(pods, "/shut")) == (OK, DENIED), "those that are known go on"
        assert fetch(known, live.api.ipv4, PORT) == OK
        assert fetch(live.node, known.ipv4, PORT) == OK
        assert fetch(pods.outside, known.ipv4, PORT) == OK
        pods.cluster.start_agent()
        for new in (free, caged):
            pods.cluster.known(f"default/{new.name}")
        live.becomes(OK, lambda: fetch(free, live.api.ipv4, PORT, patience=GLANCE))
        assert pods.reached(free) == EVERYBODY
        assert pods.reached(caged) == set()
        assert pods.reached_by(caged) == EVERYBODY
    finally:
        if live.agent is None:
            pods.cluster.start_agent(ready=False)
        pods.remove(free, caged, known)


def test_a_pod_without_a_process_to_be_seen_stays_cut_off(pods: UnseenPods) -> None:
    new = pods.pod(app="frontend")
    try:
        pods.cluster.put_pod(new.name, new.labels, new.ips)
        pods.cluster.told(f"kubernetes:Pod/default/{new.name}: it runs on this node")
        assert pods.reached(new) == pods.reached_by(new) == set()
        assert fetch(new, pods.live.api.ipv4, 80, "/open", patience=GLANCE) == DROPPED
    finally:
        pods.cluster.api.delete("pods", new.name)
        pods.live.remove(new)


def test_somebody_flushes_all_tables(pods: UnseenPods) -> None:
    """As a firewall does that is loaded."""
    new = pods.pod(app="frontend")
    try:
        pods.live.node.run(["nft", "flush", "ruleset"], check=True)
        pods.live.until("they are there again", lambda: told(pods)["cut_off"])
        assert pods.reached(new) == set()
    finally:
        pods.remove(new)


def test_pods_may_be_let_be_and_all_of_it_is_taken_away(pods: UnseenPods) -> None:
    live = pods.live
    live.end_agent()
    before = pods.cluster.config.read_text()
    pods.cluster.config.write_text(f"{before}unknown_pods: allow\n")
    new = pods.pod(app="other")
    try:
        assert pods.reached(new) == set(), "no agent has said otherwise"
        pods.cluster.start_agent()
        assert told(pods)["cut_off"] is False
        live.until("it is let be", lambda: pods.reached(new) == EVERYBODY)
        live.end_agent()
        pods.cluster.config.write_text(before)
        pods.cluster.start_agent(ready=False)
        live.until("it is cut off again", lambda: pods.reached(new) == set())
        live.end_agent()
        assert "lockgate-pods" in live.node.run(["nft", "list", "tables"], check=True).stdout
        assert live.clean().status == 0
        assert "lockgate" not in live.node.run(["nft", "list", "tables"], check=True).stdout
        live.until("it is let be again", lambda: pods.reached(new) == EVERYBODY)
    finally:
        pods.remove(new)
        if live.agent is not None:
            live.end_agent()
        pods.cluster.start_agent()
