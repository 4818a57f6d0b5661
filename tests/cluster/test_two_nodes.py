"""Two nodes, each with its own containerd, CNI plugin, kubelet, kube-proxy and pod of the DaemonSet: worker-1 with the
plugin bridge, worker-2 with ptp (routed veths). Pods have addresses of both families. Nobody's is translated between
pods."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from os import kill

import pytest
from lockgate.agent.playground import UPLINK_IPV4
from lockgate.tests.cluster.daemonset_node import IDLE, WEB, DaemonSetNode
from lockgate.tests.cluster.load import ALLOWED
from lockgate.tests.cluster.whole_cluster import Kind, whole_cluster
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, fetch
from lockgate.tests.e2e.test_agent_kubernetes import BROKEN, POLICY

Nodes = tuple[DaemonSetNode, DaemonSetNode]
FAR = {"far-server": WEB, "far-client": IDLE}
POLICIES = (
    "ciliumnetworkpolicies.cilium.io,ciliumclusterwidenetworkpolicies.cilium.io,networkpolicies.networking.k8s.io"
)
EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: far-egress, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: far-client}}
  egress:
  - toEndpoints: [{matchLabels: {app: api-server}}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/open"}]}}]
"""
INGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: far-ingress, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: far-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts: [{ports: [{port: "80"}]}]
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with whole_cluster(Kind("bridge", masquerade=False), Kind("ptp", masquerade=False), dual=True) as (near, far):
        for name, command in FAR.items():
            far.put(name, command)
        far.live.until("its pods run", lambda: all(map(far.ip, FAR)))
        yield near, far


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """Without policies."""
    yield cluster
    cluster[0].kubectl("delete", POLICIES, "--all", "-A")
    cluster[0].kubectl("delete", "pods,services", "published", "--ignore-not-found")
    for node in cluster:
        node.becomes_ready()
        node.live.until("nothing is enforced", partial(has, node, 0))


def enforced(nodes: Nodes, *given: str) -> None:
    """Applied, and in force on both."""
    for policy in given:
        nodes[0].kubectl("apply", "-f", "-", input=policy)
    for node in nodes:
        node.live.until("all are enforced", partial(has, node, len(given)))


def has(node: DaemonSetNode, number: int) -> bool:
    """Whether its agent is well with so many policies."""
    told = node.live.lockgate("policy", "list", "-o", "json")
    return told.status == 0 and len(told.data) == number and node.live.ok()


def test_l7_on_the_side_of_the_server(nodes: Nodes) -> None:
    near, far = nodes
    enforced(nodes, POLICY.replace("app: frontend", "app: far-client"))
    near.live.becomes(ALLOWED, lambda: far.asks("far-client", "/open"))
    assert far.asks("far-client", "/shut") == DENIED
    assert near.asks("frontend", "/open") == DROPPED
    assert "default/far-client" in near.live.lockgate("flows", "--verdict", "denied").out


def test_l7_on_the_side_of_the_client(nodes: Nodes) -> None:
    near, far = nodes
    enforced(nodes, EGRESS)
    far.live.becomes(DENIED, lambda: far.asks("far-client", "/shut"))
    assert far.asks("far-client", "/open") == ALLOWED
    assert far.asks("far-client", "/open", "far-server") == DROPPED, "on its own node"
    assert near.asks("frontend", "/shut") == ALLOWED


def test_l7_on_both_sides(nodes: Nodes) -> None:
    """The request goes through both nodes' Envoys."""
    far = nodes[1]
    wider = POLICY.replace("app: frontend", "app: far-client").replace('path: "/open"', 'path: "/.*"')
    enforced(nodes, wider, EGRESS)
    far.live.becomes(ALLOWED, lambda: far.asks("far-client", "/open"))
    assert far.asks("far-client", "/shut") == DENIED
    enforced(nodes, wider.replace('path: "/.*"', 'path: "/shut"'), EGRESS)
    far.live.becomes(DENIED, lambda: far.asks("far-client", "/open"))


def test_l4_to_the_other_node(nodes: Nodes) -> None:
    near, far = nodes
    enforced(nodes, INGRESS)
    near.live.becomes(DROPPED, lambda: near.asks("intruder", "/open", "far-server"))
    assert near.asks("frontend", "/open", "far-server") == ALLOWED
    assert far.asks("far-client", "/open", "far-server") == DROPPED


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_both_families(nodes: Nodes, family: int) -> None:
    """A policy says nothing of families: pods are who they are by either address, also to the other node."""
    near, far = nodes
    enforced(nodes, POLICY, EGRESS, INGRESS)
    near.live.becomes(DENIED, lambda: near.asks("frontend", "/shut", family=family))
    assert near.asks("frontend", "/open", family=family) == ALLOWED
    assert near.asks("intruder", "/open", family=family) == DROPPED
    assert near.asks("frontend", "/open", "far-server", family) == ALLOWED
    assert near.asks("intruder", "/open", "far-server", family) == DROPPED
    enforced(nodes, POLICY.replace("app: frontend", "app: far-client").replace("/open", "/.*"), EGRESS, INGRESS)
    far.live.becomes(ALLOWED, lambda: far.asks("far-client", "/open", family=family))
    assert far.asks("far-client", "/shut", family=family) == DENIED
    assert near.asks("frontend", "/open", family=family) == DROPPED


@pytest.fixture
def moved(nodes: Nodes) -> Iterator[Nodes]:
    yield nodes
    near = nodes[0]
    for node in nodes:
        if "default/intruder" in node.endpoints():
            node.delete("intruder")
    near.put("intruder", IDLE)
    near.live.until("it runs", lambda: bool(near.ip("intruder")))


def test_a_pod_moves(moved: Nodes) -> None:
    """It is judged by the other node from then on, and its server knows it there."""
    near, far = moved
    enforced(moved, POLICY.replace("app: frontend", "app: intruder"))
    near.live.becomes(DENIED, lambda: near.asks("intruder", "/shut"))
    near.delete("intruder")
    far.put("intruder", IDLE)
    far.live.until("it runs", lambda: bool(far.ip("intruder")))
    far.live.becomes(DENIED, lambda: far.asks("intruder", "/shut"))
    assert far.asks("intruder", "/open") == ALLOWED
    assert "default/intruder" in far.endpoints() and "default/intruder" not in near.endpoints()


def test_an_address_is_another_pods_when_one_has_gone(nodes: Nodes) -> None:
    """The plugin is told to give the next pod the address that the last one had."""
    far = nodes[1]
    enforced(nodes, POLICY.replace("app: frontend", "app: first"))
    far.put("first", IDLE)
    far.live.until("it runs", lambda: bool(far.ip("first")))
    far.live.becomes(DENIED, lambda: far.asks("first", "/shut"))
    address = far.ip("first")
    far.delete("first")
    last = far.runtime.files.place("/var/lib/cni") / "networks/pods/last_reserved_ip.0"
    before = address.rpartition(".")[0] + f".{int(address.rpartition('.')[2]) - 1}"
    last.write_text(before)
    far.put("second", IDLE)
    far.live.until("it runs", lambda: bool(far.ip("second")))
    assert far.ip("second") == address
    far.live.becomes(DROPPED, lambda: far.asks("second", "/open"))
    far.delete("second")


def test_one_nodes_agent_is_dead(nodes: Nodes) -> None:
    """What it enforced stays, and the other node's follows what changes."""
    near, far = nodes
    both = POLICY.replace("app: frontend", "app: far-client"), INGRESS
    enforced(nodes, *both)
    near.live.becomes(DROPPED, lambda: near.asks("intruder", "/open", "far-server"))
    before = far.own_container().pid
    kill(before, signal.SIGSTOP)
    try:
        near.kubectl("apply", "-f", "-", input=both[0].replace('path: "/open"', 'path: "/shut"'))
        near.live.becomes(DENIED, lambda: far.asks("far-client", "/open"))
        assert far.asks("far-client", "/shut") == ALLOWED
        assert near.asks("frontend", "/open", "far-server") == ALLOWED
        assert near.asks("intruder", "/open", "far-server") == DROPPED
        shown = json.loads(near.kubectl("get", "cnp", "shop", "-o", "json"))["status"]["conditions"]
        assert [(each["type"], each["status"]) for each in shown] == [("Valid", "True")]
        near.kubectl("apply", "-f", "-", input=BROKEN)
        near.live.until("it is told", lambda: valid(near) == "False")
    finally:
        kill(before, signal.SIGCONT)
    near.kubectl("apply", "-f", "-", input=POLICY)
    near.live.until("it is told", lambda: valid(near) == "True")


@pytest.mark.parametrize("number", [0, 1], ids=["bridge", "ptp"])
def test_a_pod_that_starts_while_no_agent_answers(nodes: Nodes, number: int) -> None:
    """It is cut off, and comes to its own when the agent has seen it."""
    node = nodes[number]
    client, server = ("frontend", "far-server") if number == 0 else ("far-client", "api-server")
    agent = node.own_container().pid
    kill(agent, signal.SIGSTOP)
    try:
        node.put("late", WEB)
        node.live.until("it runs", lambda: bool(node.ip("late")))
        assert node.asks("late", "/open", server) == DROPPED
        assert node.asks(client, "/open", "late") == DROPPED
    finally:
        kill(agent, signal.SIGCONT)
    node.live.becomes(ALLOWED, lambda: node.asks("late", "/open", server))
    node.live.becomes(ALLOWED, lambda: node.asks(client, "/open", "late"))
    node.delete("late")


def valid(node: DaemonSetNode) -> str:
    """What authors of the policy see."""
    told = json.loads(node.kubectl("get", "cnp", "shop", "-o", "json")).get("status", {}).get("conditions", [])
    return "".join(each["status"] for each in told)


SERVER_FOR = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {{name: entities, namespace: default}}
spec:
  endpointSelector: {{matchLabels: {{app: {app}}}}}
  ingress:
  - fromEntities: [{entity}]
"""


def test_entities(nodes: Nodes) -> None:
    """To a pod its own node is the host, which is let in; the other is a remote node."""
    near, far = nodes
    server = far.ip("far-server")

    def from_node(node: DaemonSetNode) -> str:
        return fetch(node.live.node, server, 80, "/open", patience=2 * GLANCE)

    enforced(nodes, SERVER_FOR.format(app="far-server", entity="kube-apiserver"))
    far.live.becomes(DROPPED, lambda: near.asks("frontend", "/open", "far-server"))
    assert from_node(far) == ALLOWED
    assert from_node(near) == ALLOWED, "the API runs there"
    enforced(nodes, SERVER_FOR.format(app="far-server", entity="remote-node"))
    far.live.becomes(ALLOWED, lambda: from_node(near))
    enforced(nodes, SERVER_FOR.format(app="far-server", entity="world"))
    far.live.becomes(DROPPED, lambda: from_node(near))
    assert from_node(far) == ALLOWED


def test_probes_reach_a_policed_pod(nodes: Nodes) -> None:
    """The kubelet is the node, which is let in on both plugins."""
    enforced(nodes, POLICY.replace("app: api-server", "app: probed"))
    probe = {"httpGet": {"path": "/shut", "port": 80}, "periodSeconds": 1}
    for number, node in enumerate(nodes):
        node.put("probed", WEB, readinessProbe=probe)
        node.live.until(f"it is ready on node {number}", partial(ready, node, "probed"))
        assert node.asks("intruder" if number == 0 else "far-client", "/open", "probed") == DROPPED
        node.delete("probed")


def ready(node: DaemonSetNode, name: str) -> bool:
    told = node.api.get("pods", name)["status"].get("conditions", ())
    return {"Ready": "True"}.items() <= {each["type"]: each["status"] for each in told}.items()


WORLD = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: world, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: published}}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/open"}]}}]
"""
NODE_PORT = """
apiVersion: v1
kind: Service
metadata: {name: published, namespace: default}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: published}
  ports: [{port: 80, nodePort: 30080}]
"""


def from_outside(node: DaemonSetNode, port: int, path: str) -> str:
    """What somebody behind the node's uplink is told, who asks the node."""
    return fetch(node.live.ground.outside(), UPLINK_IPV4, port, path, patience=2 * GLANCE)


@pytest.mark.parametrize("number", [0, 1], ids=["bridge", "ptp"])
def test_ports_of_the_node(nodes: Nodes, number: int) -> None:
    """`hostPort`, by the plugin portmap, and a service's node port. The client stays who it is."""
    node = nodes[number]
    enforced(nodes, WORLD)
    node.put("published", WEB, ports=[{"containerPort": 80, "hostPort": 8080}])
    node.kubectl("apply", "-f", "-", input=NODE_PORT)
    for port in (8080, 30080):
        node.live.becomes(ALLOWED, partial(from_outside, node, port, "/open"))
        assert from_outside(node, port, "/shut") == DENIED
    enforced(nodes, WORLD.replace("fromEntities: [world]", "fromEndpoints: [{}]"))
    for port in (8080, 30080):
        node.live.becomes(DROPPED, partial(from_outside, node, port, "/open"))
    node.kubectl("delete", "service", "published")
    node.delete("published")


def test_a_node_port_that_gives_its_clients_the_nodes_address(nodes: Nodes) -> None:
    """As kube-proxy does by default: on the pod's own node they are who they are, on another one that node."""
    near, far = nodes
    far.put("published", WEB)
    near.kubectl("apply", "-f", "-", input=NODE_PORT.replace("Local", "Cluster"))
    for asked in nodes:
        asked.live.becomes(ALLOWED, partial(from_outside, asked, 30080, "/open"))
    enforced(nodes, WORLD)
    far.live.becomes(DENIED, partial(from_outside, far, 30080, "/shut"))
    assert from_outside(far, 30080, "/open") == ALLOWED
    near.live.becomes(DROPPED, partial(from_outside, near, 30080, "/open"))
    enforced(nodes, WORLD.replace("[world]", "[remote-node]"))
    near.live.becomes(DENIED, partial(from_outside, near, 30080, "/shut"))
    assert from_outside(near, 30080, "/open") == ALLOWED
    assert from_outside(far, 30080, "/open") == DROPPED
    near.kubectl("delete", "service", "published")
    far.delete("published")
