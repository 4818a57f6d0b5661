"""The pod of the DaemonSet in compose/kubernetes, as a real kubelet runs it: that it enforces, and that nothing is lost
and nothing let through when it goes, comes back, is replaced or killed inside."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import ip_address
from os import kill
from pathlib import Path

import dns.message
import dns.query
import pytest
from lockgate.agent.playground import OUTSIDE_IPV4
from lockgate.redirect.kernel import netns
from lockgate.tests.cluster.daemonset_node import LOCKGATE, DaemonSetNode, condition
from lockgate.tests.cluster.load import ALLOWED, ClusterLoad
from lockgate.tests.cluster.whole_cluster import CONTAINERD
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, fetch
from lockgate.tests.e2e.name_server import NameServer
from lockgate.tests.e2e.test_agent_kubernetes import POLICY, WIDER
from lockgate.tests.kubernetes_roles import MANIFEST

OTHER = "other:local"
# What is the same whatever runs the containers is shown with one runtime.
on_containerd = pytest.mark.parametrize("daemonset", [CONTAINERD], indirect=True, ids=str)
# NET_ADMIN, NET_RAW, SYS_CHROOT, SYS_PTRACE, SYS_ADMIN (linux/capability.h)
CAPABILITIES = (12, 13, 18, 19, 21)


@contextmanager
def under_load(node: DaemonSetNode) -> Iterator[None]:
    """No request is lost that is allowed, and none let through that is not."""
    with ClusterLoad(node.inside("frontend"), node.inside("intruder"), node.ip("api-server")) as load:
        node.live.until("each kind was answered", lambda: load.seen == load.expected)
        yield
    assert load.seen == load.expected, load


def follows(node: DaemonSetNode) -> None:
    """What is changed now is enforced."""
    node.kubectl("apply", "-f", "-", input=WIDER)
    node.live.becomes("404", lambda: node.asks("frontend", "/other")[:3])
    node.kubectl("apply", "-f", "-", input=POLICY)
    node.live.becomes(DENIED, lambda: node.asks("frontend", "/other"))
    node.live.until("all is well", node.live.ok)


def test_its_pod_has_what_the_manifest_grants_and_no_more(policed: DaemonSetNode) -> None:
    status = policed.api.get("daemonsets", "lockgate", "lockgate")["status"]
    assert (status["desiredNumberScheduled"], status["numberReady"]) == (1, 1)
    (told,) = policed.own_pods()
    assert told["spec"]["serviceAccountName"] == "lockgate"
    agent = policed.own_container().pid
    (may,) = re.findall(r"^CapBnd:\t(\w+)$", Path(f"/proc/{agent}/status").read_text(), re.MULTILINE)
    assert int(may, 16) == sum(1 << each for each in CAPABILITIES)
    (root,) = [line for line in Path(f"/proc/{agent}/mounts").read_text().splitlines() if line.split()[1] == "/"]
    assert "ro" in root.split()[3].split(",")
    assert policed.api.asked("list", "pods"), "by the account's own token"


def test_a_policy_applied_by_kubectl_is_enforced(policed: DaemonSetNode) -> None:
    assert policed.asks("frontend", "/open") == ALLOWED
    assert policed.asks("frontend", "/shut") == DENIED
    assert policed.asks("intruder", "/open") == DROPPED
    told = policed.live.lockgate("flows", "--verdict", "denied").out
    assert "default/frontend" in told and "GET /shut  403" in told
    assert policed.kubectl("get", "cnp", "shop", "--no-headers").split()[:2] == ["shop", "True"]
    follows(policed)


NAMES = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: names, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress:
  - toEntities: [world]
    toPorts: [{ports: [{port: "53", protocol: UDP}], rules: {dns: [{matchPattern: "*.example.com"}]}}]
  - toFQDNs: [{matchName: open.example.com}]
    toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: /open}]}}]
"""
ELSEWHERE = ip_address("198.51.100.10")


@pytest.fixture
def outside(policed: DaemonSetNode) -> Iterator[NameServer]:
    """What answers for names outside, with a web server at one address there."""
    where = policed.live.ground.outside()
    where.add_address(ELSEWHERE)
    with closing(policed.live.web_at(where, 80)), closing(NameServer(where)) as made:
        made.zone["open.example.com"] = 3600, (str(ELSEWHERE),)
        yield made
    policed.kubectl("delete", "ciliumnetworkpolicies.cilium.io", "names")


def test_names_outside(policed: DaemonSetNode, outside: NameServer) -> None:
    """Whose servers a pod may ask for by their names, and for what. Its address is translated on the way."""
    frontend = policed.inside("frontend")

    def asks(path: str) -> str:
        return fetch(frontend, ELSEWHERE, 80, path, patience=2 * GLANCE)

    def resolves(name: str) -> int:
        answer = netns.run_in(
            frontend.path, lambda: dns.query.udp(dns.message.make_query(name, "A"), str(OUTSIDE_IPV4), 5)
        )
        return len(answer.answer)

    assert asks("/open") == OK
    policed.kubectl("apply", "-f", "-", input=NAMES)
    policed.live.becomes(DROPPED, lambda: asks("/open"))
    assert resolves("shut.example.org") == 0 and outside.names() == []
    assert resolves("open.example.com") == 1
    assert (asks("/open"), asks("/shut")) == (OK, DENIED)


def test_its_pod_is_deleted_and_replaced(policed: DaemonSetNode) -> None:
    before, envoy = policed.ready(), policed.live.envoy_pid()
    with under_load(policed):
        policed.kubectl("-n", "lockgate", "delete", "pods", "--all", "--wait=false")
        policed.becomes_ready(before)
        policed.live.until("all is well", policed.live.ok)
    assert policed.live.envoy_pid() == envoy
    follows(policed)


@on_containerd
def test_envoy_dies_when_the_pod_that_it_came_with_is_gone(policed: DaemonSetNode) -> None:
    """Its supervisor begins it anew, out of a container that nobody else has any more. Nothing is let through."""
    before, envoy = policed.ready(), policed.live.envoy_pid()
    policed.kubectl("-n", "lockgate", "delete", "pods", "--all", "--wait=false")
    policed.becomes_ready(before)
    with ClusterLoad(policed.inside("frontend"), policed.inside("intruder"), policed.ip("api-server")) as load:
        policed.live.until("each kind was answered", lambda: load.seen == load.expected)
        kill(envoy, signal.SIGKILL)
        policed.live.until("another serves", lambda: policed.live.envoy_pid() not in (0, envoy))
        policed.live.until("all is well", policed.live.ok)
    for kind in ("denied", "kept, denied", "intruder"):
        assert ALLOWED not in load.seen[kind], load
    follows(policed)


@on_containerd
def test_its_pod_is_killed_without_a_word(policed: DaemonSetNode) -> None:
    before = policed.ready()
    with under_load(policed):
        policed.kubectl("-n", "lockgate", "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
        policed.becomes_ready(before)
        policed.live.until("all is well", policed.live.ok)
    follows(policed)


@on_containerd
def test_a_roll_out_of_the_same_image(policed: DaemonSetNode) -> None:
    before, envoy = policed.ready(), policed.live.envoy_pid()
    with under_load(policed):
        policed.kubectl("-n", "lockgate", "rollout", "restart", "daemonset/lockgate")
        policed.becomes_ready(before)  # the kubelet may let a pod that has ended go only a minute later
        policed.kubectl("-n", "lockgate", "rollout", "status", "daemonset/lockgate", "--timeout=60s")
        policed.live.until("all is well", policed.live.ok)
    assert policed.live.envoy_pid() == envoy
    follows(policed)


@pytest.fixture
def other_image(daemonset: DaemonSetNode) -> Iterator[str]:
    """Its Envoy is another file, of the same content."""
    binary = json.loads((daemonset.live.run_dir / "envoy.json").read_text())["command"][0]
    daemonset.runtime.another(LOCKGATE, binary, OTHER)
    yield OTHER


def test_a_roll_out_of_an_image_with_another_envoy(policed: DaemonSetNode, other_image: str) -> None:
    before, envoy = policed.ready(), policed.live.envoy_pid()
    with under_load(policed):
        policed.kubectl("-n", "lockgate", "set", "image", "daemonset/lockgate", f"lockgate={other_image}")
        policed.becomes_ready(before)  # the kubelet may let a pod that has ended go only a minute later
        policed.kubectl("-n", "lockgate", "rollout", "status", "daemonset/lockgate", "--timeout=60s")
        policed.live.until("another Envoy serves", lambda: policed.live.envoy_pid() != envoy)
        policed.live.until("all is well", policed.live.ok)
    follows(policed)


def restarts(node: DaemonSetNode) -> int:
    (pod,) = node.own_pods()
    return int(pod["status"]["containerStatuses"][0]["restartCount"])


def shown(node: DaemonSetNode) -> str:
    """Whether its pod is ready."""
    (pod,) = node.own_pods()
    return condition(pod)


@on_containerd
def test_the_agent_is_killed_inside(policed: DaemonSetNode) -> None:
    before = restarts(policed)
    with under_load(policed):
        kill(policed.own_container().pid, signal.SIGKILL)
        policed.live.until("that is told", lambda: shown(policed) == "False")
        policed.live.until("it runs again", lambda: restarts(policed) == before + 1 and shown(policed) == "True", 300)
        policed.live.until("all is well", policed.live.ok)
    follows(policed)


@on_containerd
def test_an_agent_that_answers_nobody(policed: DaemonSetNode) -> None:
    before = restarts(policed)
    with under_load(policed):
        kill(policed.own_container().pid, signal.SIGSTOP)
        policed.live.until("that is told", lambda: shown(policed) == "False")
        assert restarts(policed) == before, "it is not ready before it is given up"
        policed.live.until(
            "it is begun anew", lambda: restarts(policed) == before + 1 and shown(policed) == "True", 300
        )
        policed.live.until("all is well", policed.live.ok)
    follows(policed)


@pytest.fixture
def as_shipped(policed: DaemonSetNode) -> Iterator[DaemonSetNode]:
    """What a test makes of the DaemonSet is undone."""
    yield policed
    policed.kubectl("-n", "lockgate", "delete", "daemonset", "lockgate", "--ignore-not-found")
    policed.live.until("its pod is gone", lambda: not policed.own_pods())
    policed.kubectl("apply", "--validate=false", "-f", str(MANIFEST))
    policed.becomes_ready()


CLEAN = [{"op": "add", "path": "/spec/template/spec/containers/0/args", "value": ["agent", "clean"]}]


@on_containerd
def test_what_is_left_without_it(as_shipped: DaemonSetNode) -> None:
    """Enforcement, until its pods are told to clean."""
    node = as_shipped
    with under_load(node):
        node.kubectl("-n", "lockgate", "delete", "daemonset", "lockgate")
        node.live.until("its pod is gone", lambda: not node.own_pods())
    with under_load(node):
        node.kubectl("apply", "--validate=false", "-f", str(MANIFEST))
        node.becomes_ready()
    node.kubectl("-n", "lockgate", "patch", "daemonset", "lockgate", "--type=json", "-p", json.dumps(CLEAN))
    node.live.becomes(ALLOWED, lambda: node.asks("frontend", "/shut"))
    node.live.becomes(ALLOWED, lambda: node.asks("intruder", "/open"))
    node.live.until("nothing is left of it", lambda: not list(node.live.run_dir.iterdir()))
