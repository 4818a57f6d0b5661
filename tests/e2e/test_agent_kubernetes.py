"""A node of a cluster: objects of the Kubernetes API, enforced on the wire and followed as they come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from lockgate.tests.e2e.cluster_node import ClusterNode, cluster_node
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, OK, Line, fetch

POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: shop, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: http, protocol: TCP}]
      rules: {http: [{method: GET, path: "/open"}]}
"""
WIDER = POLICY.replace('path: "/open"', 'path: "/o.*"')
BROKEN = POLICY.replace("rules:", "rulez:")


@pytest.fixture(name="running", scope="module")
def running_node() -> Iterator[ClusterNode]:
    with cluster_node() as made:
        made.begin()
        yield made


@pytest.fixture(name="cluster")
def policed_cluster(running: ClusterNode) -> Iterator[ClusterNode]:
    running.api.apply(POLICY)
    running.live.becomes(DENIED, lambda: ask(running, "/shut"))
    running.live.becomes(OK, lambda: ask(running, "/open"))
    yield running


def ask(cluster: ClusterNode, path: str, client: str = "frontend") -> str:
    live = cluster.live
    return fetch(getattr(live, client), live.api.ipv4, 80, path, patience=GLANCE * 2)


def test_a_policy_made_through_the_api_is_enforced(cluster: ClusterNode) -> None:
    live = cluster.live
    assert ask(cluster, "/shut") == DENIED
    assert ask(cluster, "/open", "intruder") == DROPPED
    assert fetch(live.frontend, live.api.ipv6, 80, "/open", patience=GLANCE * 2) == OK
    (policy,) = live.lockgate("policy", "list", "-o", "json").data
    assert (policy["policy"], policy["source"]) == ("default/shop", "kubernetes:CiliumNetworkPolicy/default/shop")
    assert policy["endpoints"] == ["default/api-server"]
    with Line(live.frontend, live.api.ipv4, 80) as line:
        assert str(line.ask("/ok")) == DENIED
        cluster.api.apply(WIDER)
        live.becomes(OK, lambda: line.ask("/ok"))
    cluster.api.delete("ciliumnetworkpolicies", "shop")
    live.becomes(OK, lambda: ask(cluster, "/shut", "intruder"))


def test_what_an_object_says_wrongly(cluster: ClusterNode) -> None:
    """Its last good version stays, and the problem is told by kind, name and path."""
    live = cluster.live
    cluster.api.apply(BROKEN)
    cluster.told("kubernetes:CiliumNetworkPolicy/default/shop: spec.ingress[0].toPorts[0].rulez: unknown field 'rulez'")
    cluster.told("policy default/shop stays enforced in its last good version")
    assert (ask(cluster, "/open"), ask(cluster, "/shut"), ask(cluster, "/open", "intruder")) == (OK, DENIED, DROPPED)
    (policy,) = live.lockgate("policy", "list", "-o", "json").data
    assert "rulez" in str(policy["problems"])
    assert [live.lockgate("status", *more).status for more in ((), ("--ready",))] == [1, 0]
    cluster.api.apply(POLICY)
    live.until("all is well", live.ok)


def test_pods_come_and_go(cluster: ClusterNode) -> None:
    live = cluster.live
    late = live.ground.pod("late", labels={"app": "other"})
    try:
        cluster.tell(late)
        cluster.known("default/late")
        assert fetch(late, live.api.ipv4, 80, "/open", patience=GLANCE) == DROPPED
        cluster.put_pod("late", {"app": "frontend"}, late.ips)
        live.becomes(OK, lambda: fetch(late, live.api.ipv4, 80, "/open", patience=GLANCE))
        assert fetch(late, live.api.ipv4, 80, "/shut", patience=GLANCE) == DENIED
        # It is over: its address may be another's any moment.
        cluster.put_pod("late", {"app": "frontend"}, late.ips, phase="Succeeded")
        live.becomes(DROPPED, lambda: fetch(late, live.api.ipv4, 80, "/open", patience=GLANCE))
        cluster.put_pod("next", {"app": "frontend"}, late.ips, inside=late)
        live.becomes(OK, lambda: fetch(late, live.api.ipv4, 80, "/open", patience=GLANCE))
        cluster.end("next")
        cluster.end("late")
        cluster.gone("default/next")
    finally:
        live.remove(late)


def uid_of(cluster: ClusterNode, name: str) -> str:
    return str(cluster.api.get("pods", name)["metadata"]["uid"])


def test_a_pod_is_policed_before_the_api_knows_its_address(cluster: ClusterNode) -> None:
    live = cluster.live
    early = live.ground.pod("early", labels={"app": "other"})
    try:
        cluster.put_pod("early", early.labels, [], inside=early, phase="Pending")
        cluster.known("default/early")
        assert cluster.endpoints()["default/early"]["ips"] == [str(ip) for ip in early.ips]
        assert fetch(early, live.api.ipv4, 80, "/open", patience=GLANCE) == DROPPED
        cluster.end("early")
        cluster.gone("default/early")
    finally:
        live.remove(early)


def test_a_pod_whose_sandbox_is_made_anew(cluster: ClusterNode) -> None:
    """A process with the same control group and another number."""
    cluster.end_sandbox("frontend")
    cluster.told("kubernetes:Pod/default/frontend: it runs on this node")
    process = cluster.live.frontend.popen(["sleep", "infinity"])
    cluster._sandboxes["frontend"] = process, cluster.group(uid_of(cluster, "frontend"), process.pid)
    cluster.known("default/frontend")
    cluster.live.until("all is well", cluster.live.ok)
    assert ask(cluster, "/shut") == DENIED


def test_pods_of_other_nodes_and_labels_of_namespaces(cluster: ClusterNode) -> None:
    live = cluster.live
    outside = live.ground.outside()
    cluster.put_pod("remote", {"app": "frontend"}, [str(outside.ips[0])], node="worker-2")
    live.becomes(OK, lambda: fetch(outside, live.api.ipv4, 80, "/open", patience=GLANCE))
    assert fetch(outside, live.api.ipv4, 80, "/shut", patience=GLANCE) == DENIED
    by_team = POLICY.replace("matchLabels: {app: frontend}", "matchLabels: {io.cilium.k8s.namespace.labels.team: bank}")
    cluster.api.apply(by_team)
    live.becomes(DROPPED, lambda: fetch(outside, live.api.ipv4, 80, "/open", patience=GLANCE))
    cluster.api.put("namespaces", {"metadata": {"name": "default", "labels": {"team": "bank"}}})
    live.becomes(OK, lambda: fetch(outside, live.api.ipv4, 80, "/open", patience=GLANCE))
    cluster.api.put("namespaces", {"metadata": {"name": "default", "labels": {"team": "shop"}}})
    cluster.api.delete("pods", "remote")


def test_kubernetes_network_policies_and_clusterwide_ones(cluster: ClusterNode) -> None:
    live = cluster.live
    cluster.api.delete("ciliumnetworkpolicies", "shop")
    cluster.api.apply(
        """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: plain, namespace: default}
spec:
  podSelector: {matchLabels: {app: api-server}}
  ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}], ports: [{port: http}]}]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: everywhere}
spec:
  endpointSelector: {matchLabels: {app: backend}}
  ingress: [{}]
"""
    )
    try:
        live.becomes(DROPPED, lambda: ask(cluster, "/", "intruder"))
        assert ask(cluster, "/") == OK
        live.becomes(DROPPED, lambda: fetch(live.frontend, live.backend.ipv4, 8080, patience=GLANCE))
    finally:
        cluster.api.delete("networkpolicies", "plain")
        cluster.api.delete("ciliumclusterwidenetworkpolicies", "everywhere")


SECRET = POLICY.replace(
    'http: [{method: GET, path: "/open"}]',
    "http: [{headerMatches: [{name: x-token, secret: {namespace: lockgate-secrets, name: token}}]}]",
)


def test_authors_see_what_was_made_of_their_policies(cluster: ClusterNode) -> None:
    """What else is in the status stays, and what is right already is not written again."""

    def condition() -> tuple[str, str]:
        found = cluster.api.get("ciliumnetworkpolicies", "shop").get("status", {}).get("conditions", [])
        return next(((each["status"], each["message"]) for each in found if each["type"] == "Valid"), ("", ""))

    api, live = cluster.api, cluster.live
    written = api.asked("patch", "ciliumnetworkpolicies/status")
    live.until("it is told to be valid", lambda: condition() == ("True", "Policy validation succeeded"))
    other = {"type": "Other", "status": "True"}
    told = api.get("ciliumnetworkpolicies", "shop")
    told["spec"]["ingress"][0]["fromEntity"] = ["all"]
    told["status"]["conditions"].insert(0, other)
    api.put("ciliumnetworkpolicies", told)
    live.until("it is told to be invalid", lambda: condition()[0] == "False")
    assert condition()[1].startswith("spec.ingress[0].fromEntity: unknown field 'fromEntity'; did you mean")
    assert other in api.get("ciliumnetworkpolicies", "shop")["status"]["conditions"]
    api.apply(POLICY)
    live.until("it is told to be valid again", lambda: condition()[0] == "True")
    api.apply("{apiVersion: cilium.io/v2, kind: CiliumClusterwideNetworkPolicy, metadata: {name: none}, spec: {}}")
    live.until(
        "the clusterwide one is told to be invalid",
        lambda: api.get("ciliumclusterwidenetworkpolicies", "none", "").get("status", {}).get("conditions"),
    )
    api.delete("ciliumclusterwidenetworkpolicies", "none")
    assert api.asked("patch", "ciliumnetworkpolicies/status") - written < 10


EGRESS = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: out, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: frontend}}
  egress: [{toEntities: [ENTITY]}]
"""
NODE_POLICY = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: node}
spec:
  nodeSelector: {matchLabels: {zone: a}}
  ingress: [{fromEntities: [all]}]
"""


def test_other_nodes_the_api_server_and_this_node(cluster: ClusterNode) -> None:
    api, live = cluster.api, cluster.live
    outside = live.ground.outside()
    live.webs["outside"] = live.web_at(outside, 8080)
    there = str(outside.ips[0])

    def reaches() -> str:
        return fetch(live.frontend, there, 8080, patience=GLANCE)

    live.becomes(OK, reaches)
    try:
        api.apply(EGRESS.replace("ENTITY", "remote-node"))
        live.becomes(DROPPED, reaches)
        addresses = {"addresses": [{"type": "InternalIP", "address": there}, {"type": "Hostname", "address": "w-2"}]}
        api.put("nodes", {"metadata": {"name": "worker-2"}, "status": addresses})
        live.becomes(OK, reaches)
        api.apply(EGRESS.replace("ENTITY", "kube-apiserver"))
        live.becomes(DROPPED, reaches)
        metadata = {"name": "kubernetes-1", "labels": {"kubernetes.io/service-name": "kubernetes"}}
        ports = [{"name": "https", "port": 6443, "protocol": "TCP"}]
        api.put(
            "services",
            {"metadata": {"name": "kubernetes"}, "spec": addressed("10.96.0.1") | {"ports": [{"port": 443}]}},
        )
        told = {"addressType": "IPv4", "endpoints": [{"addresses": [there]}], "ports": ports}
        api.put("endpointslices", {"metadata": metadata, **told})
        live.becomes(OK, reaches)
        identities = {each["identity"]: each for each in live.lockgate("identity", "list", "-o", "json").data}
        assert set(identities[7]["prefixes"]) == {f"{there}/32", "10.96.0.1/32"}
        api.apply(NODE_POLICY)
        live.until("the policy is about this node", lambda: "reserved:host" in endpoints_of(cluster, "node"))
    finally:
        for plural, name in (
            ("nodes", "worker-2"),
            ("ciliumnetworkpolicies", "out"),
            ("services", "kubernetes"),
            ("endpointslices", "kubernetes-1"),
            ("ciliumclusterwidenetworkpolicies", "node"),
        ):
            with suppress(KeyError):
                api.delete(plural, name)


def addressed(ip: str) -> dict[str, Any]:
    return {"clusterIP": ip, "clusterIPs": [ip]}


def endpoints_of(cluster: ClusterNode, policy: str) -> list[str]:
    listed = cluster.live.lockgate("policy", "list", "-o", "json").data
    return next((each["endpoints"] for each in listed if each["policy"] == policy), [])


def test_a_secret_that_a_policy_names(cluster: ClusterNode) -> None:
    api, live = cluster.api, cluster.live

    def with_token(value: str) -> str:
        with Line(live.frontend, live.api.ipv4, 80) as line:
            return str(line.ask("/", headers={"x-token": value}))

    assert "secrets" not in api.watching()
    api.apply(SECRET)
    cluster.told("secret lockgate-secrets/token is missing")
    assert with_token("s3cret") == DENIED
    secret = {"metadata": {"name": "token", "namespace": "lockgate-secrets"}, "data": {"value": "czNjcmV0"}}
    api.put("secrets", secret)
    api.put("secrets", {"metadata": {"name": "other", "namespace": "lockgate-secrets"}, "data": {"value": "b3RoZXI="}})
    live.becomes(OK, lambda: with_token("s3cret"))
    assert with_token("other") == DENIED
    api.put("secrets", secret | {"data": {"value": "bmV3"}})
    live.becomes(OK, lambda: with_token("new"))
    assert with_token("s3cret") == DENIED
    # Another namespace: the shipped roles do not let the agent read there.
    api.apply(SECRET.replace("lockgate-secrets", "kube-system"))
    cluster.told("Secret kube-system/token cannot be followed (403")
    assert with_token("new") == DENIED
    api.apply(POLICY)
    live.until("nobody asks for secrets", lambda: "secrets" not in api.watching())


def test_a_service_leads_to_its_ready_endpoints(cluster: ClusterNode) -> None:
    api, live = cluster.api, cluster.live
    web = live.serve(live.intruder, 80)
    spec = {"selector": {"in": "none"}, "ports": [{"name": "web", "port": 8000}]}
    api.put("services", {"metadata": {"name": "shop"}, "spec": addressed("10.96.0.10") | spec})

    def serves(*ips: str) -> None:
        metadata = {"name": "shop-x", "labels": {"kubernetes.io/service-name": "shop"}}
        listed = [
            {"addresses": [ip], "conditions": {"ready": ip in ips}}
            for ip in map(str, (live.api.ipv4, live.intruder.ipv4))
        ]
        told = {"endpoints": listed, "ports": [{"name": "web", "port": 80, "protocol": "TCP"}]}
        api.put("endpointslices", {"metadata": metadata, "addressType": "IPv4", **told})

    serves(str(live.api.ipv4))
    live.until("the service has an address", lambda: live.status()["services"]["serving"] == 1)
    live.becomes(OK, lambda: fetch(live.frontend, "10.96.0.10", 8000, "/open", patience=GLANCE))
    assert fetch(live.frontend, "10.96.0.10", 8000, "/shut", patience=GLANCE) == DENIED, "policies judge the backend"
    serves(str(live.intruder.ipv4))
    live.becomes(OK, lambda: fetch(live.frontend, "10.96.0.10", 8000, "/shut", patience=GLANCE))
    assert str(live.frontend.ipv4) in web.clients()
    api.delete("services", "shop")
    api.delete("endpointslices", "shop-x")
    live.until("no service is left", lambda: live.status()["services"]["addresses"] == 0)


def test_a_kind_of_policy_that_comes_later(cluster: ClusterNode) -> None:
    api, live = cluster.api, cluster.live
    live.end_agent()
    (live.folder / "state" / "kubernetes.db").unlink()
    api.handler.absent = {"ciliumclusterwidenetworkpolicies"}
    cluster.start_agent(ready=False)
    cluster.told("the cluster has no ciliumclusterwidenetworkpolicies: apply compose/kubernetes/crds.yaml")
    live.becomes(OK, lambda: ask(cluster, "/open"))
    api.handler.absent = set()
    live.until("all is well", live.ok)
