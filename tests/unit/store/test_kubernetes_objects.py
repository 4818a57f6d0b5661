"""From objects of a cluster to documents: what they say is what the readers of policies and workloads make of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from lockgate.policies import ParsedWorkloads, parse_policies, parse_workloads
from lockgate.policies.workload import Workload
from lockgate.store.content import Document
from lockgate.store.kubernetes.document import as_written, secrets_named
from lockgate.store.kubernetes.pod import Pods
from lockgate.store.kubernetes.pod_process import PodProcess
from lockgate.store.kubernetes.resource import CILIUM, NAMESPACES, PODS, SERVICES, SLICES, Resource, secret
from lockgate.store.kubernetes.service import Services, api_addresses

PROCESS = PodProcess(4321, 99)


def told(resource: Resource, *objects: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return dict(map(resource.told, objects))


def pod(name: str, ip: str = "", *, node: str = "here", phase: str = "Running", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop", "uid": f"uid-{name}", "creationTimestamp": "2026-01-01T00:00:00Z"}
    metadata |= more.pop("metadata", {})
    status = {"phase": phase, "podIPs": [{"ip": each} for each in ip.split()]}
    spec = {"nodeName": node, "serviceAccountName": "default", "containers": [], **more}
    return {"metadata": metadata, "spec": spec, "status": status}


def parsed(documents: Iterable[Document]) -> ParsedWorkloads:
    files = [parse_workloads(each.data, each.source) for each in documents]
    assert [problem for file in files for problem in file.problems] == []
    workloads = tuple(workload for file in files for workload in file.workloads)
    return ParsedWorkloads(workloads, (), tuple(service for file in files for service in file.services))


def listed(*pods: dict[str, Any], spaces: Iterable[dict[str, Any]] = (), found: str = "") -> dict[str, Workload]:
    made = Pods()
    processes = {f"uid-{name}": PROCESS for name in found.split()}
    made.update(told(PODS, *pods), told(NAMESPACES, *spaces), "here", processes)
    assert made.problems == []
    return {each.name: each for each in parsed(made.documents).workloads}


def test_a_pod_of_this_node_and_one_of_another() -> None:
    ports = [{"name": "http", "containerPort": 8080}, {"containerPort": 9}, {"name": "http", "containerPort": 1}]
    here = pod("here", "10.0.0.1 fd00::1", containers=[{"ports": ports}])
    found = listed(here, pod("there", "10.0.1.1", node="other"), found="here there")
    assert (found["here"].pid, [str(ip) for ip in found["here"].ips]) == (4321, ["10.0.0.1", "fd00::1"])
    assert dict(found["here"].ports) == {"http": 8080}
    assert (found["there"].pid, [str(ip) for ip in found["there"].ips]) == (None, ["10.0.1.1"])
    assert found["there"].namespace == "shop"


@pytest.mark.parametrize(
    "other",
    [
        pod("other", "10.0.0.2", hostNetwork=True),
        pod("other", "10.0.0.2", phase="Succeeded"),
        pod("other", "10.0.0.2", phase="Failed"),
        pod("other", "", phase="Pending"),
    ],
)
def test_who_is_no_workload(other: dict[str, Any]) -> None:
    assert listed(other, found="other" if other["status"]["phase"] != "Pending" else "") == {}


def test_a_pod_that_starts_is_known_by_its_process_before_it_has_an_address() -> None:
    found = listed(pod("starts", "", phase="Pending"), found="starts")
    assert (found["starts"].pid, found["starts"].ips) == (4321, ())


def test_an_address_belongs_to_the_youngest() -> None:
    old = pod("a-old", "10.0.0.1 fd00::1", node="other")
    new = pod("b-new", "10.0.0.1", node="other", metadata={"creationTimestamp": "2026-01-02T00:00:00Z"})
    found = listed(old, new)
    assert [str(ip) for ip in found["a-old"].ips] == ["fd00::1"]
    assert [str(ip) for ip in found["b-new"].ips] == ["10.0.0.1"]
    old["status"]["phase"] = "Failed"
    assert list(listed(old, new)) == ["b-new"]


def test_labels_that_count() -> None:
    """What tells replicas apart does not, and nobody can say of itself what only the cluster says."""
    labels = {
        "app": "web",
        "app.kubernetes.io/name": "web",
        "pod-template-hash": "6f",
        "statefulset.kubernetes.io/pod-name": "web-0",
        "io.kubernetes.pod.namespace": "kube-system",
        "io.cilium.k8s.policy.cluster": "other",
        "io.cilium.k8s.policy.serviceaccount": "admin",
        "io.cilium.k8s.namespace.labels.team": "admins",
    }
    space = {"metadata": {"name": "shop", "labels": {"team": "tills", "kubernetes.io/metadata.name": "shop"}}}
    found = listed(pod("web", "10.0.0.1", node="other", metadata={"labels": labels}), spaces=[space])
    assert dict(found["web"].labels) == {
        "app": "web",
        "app.kubernetes.io/name": "web",
        "io.cilium.k8s.namespace.labels.team": "tills",
        "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name": "shop",
        "io.cilium.k8s.policy.serviceaccount": "default",
    }


def test_a_pod_that_runs_here_without_a_process_is_told_of() -> None:
    made = Pods()
    made.update(told(PODS, pod("lost", "10.0.0.1")), {}, "here", {})
    (problem,) = made.problems
    assert problem.startswith("kubernetes:Pod/shop/lost: it runs on this node and no process")
    assert parsed(made.documents).workloads[0].pid is None, "others' rules about it keep their meaning"


def test_documents_that_did_not_change_stay_the_same() -> None:
    made, pods = Pods(), told(PODS, pod("one", "10.0.0.1"), pod("two", "10.0.0.2"))
    processes = {"uid-one": PROCESS, "uid-two": PROCESS}
    made.update(pods, {}, "here", processes)
    one, two = made.documents
    made.update(pods | told(PODS, pod("two", "10.0.0.3")), {}, "here", processes)
    assert made.documents[0] is one
    assert made.documents[1] != two


def service(name: str = "web", **more: Any) -> dict[str, Any]:
    spec = {"clusterIPs": ["10.96.0.1"], "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    return {"metadata": {"name": name, "namespace": "shop", "labels": {"tier": "front"}}, "spec": spec | more}


def endpoints(*ips: str, port: int = 8080, of: str = "web", name: str = "", **more: Any) -> dict[str, Any]:
    metadata = {"name": name or f"{of}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": of}}
    listed = [{"addresses": [ip.strip("-")], "conditions": {"ready": ip[0] != "-"}, **more} for ip in ips]
    return {"metadata": metadata, "endpoints": listed, "ports": [{"port": port, "protocol": "TCP"}]}


def services(
    *objects: dict[str, Any], slices: Iterable[dict[str, Any]] = (), pods: Iterable[dict[str, Any]] = (), **more: Any
) -> tuple[dict[str, Any], list[str]]:
    made = Services()
    options = {"addresses": True, **more}
    made.update(told(SERVICES, *objects), told(SLICES, *slices), told(PODS, *pods), "here", **options)
    return {each.name: each for each in parsed(made.documents).services}, made.problems


def weights(of: Any) -> dict[str, int]:
    return {str(group.ip): group.weight for group in of.backends}


def test_a_service_with_its_addresses_leads_to_who_is_ready() -> None:
    pods = [pod(f"web-{n}", f"10.0.0.{n}", metadata={"labels": {"app": "web"}}) for n in (1, 2, 3)]
    found, problems = services(service(), slices=[endpoints("10.0.0.1", "-10.0.0.2")], pods=pods)
    web = found["web"]
    assert (dict(web.selector), dict(web.labels)) == ({"app": "web"}, {"tier": "front"})
    assert [str(vip) for vip in web.vips] == ["10.96.0.1"]
    assert [(port.port, port.target) for port in web.ports] == [(80, 8080)]
    assert weights(web) == {"10.0.0.1": 1, "10.0.0.2": 0, "10.0.0.3": 0}
    assert problems == []


def test_services_that_only_policies_name() -> None:
    outside = service("outside", selector={}, clusterIPs=["None"])
    found, _ = services(outside, service(), slices=[endpoints("192.0.2.7", of="outside")], addresses=False)
    assert [str(ip) for ip in found["outside"].ips] == ["192.0.2.7"]
    assert (found["web"].vips, dict(found["web"].selector)) == ((), {"app": "web"})


@pytest.mark.parametrize(
    ("made", "slices"),
    [
        (service(clusterIPs=["None"]), [endpoints("10.0.0.1")]),
        (service(), [endpoints("-10.0.0.1")]),
        (service(), []),
    ],
)
def test_services_that_are_left_to_others(made: dict[str, Any], slices: list[dict[str, Any]]) -> None:
    found, problems = services(made, slices=slices)
    assert (found["web"].vips, problems) == ((), [])


NODES = ("here", "there")


def test_a_service_is_led_to_backends_of_its_own_node_only() -> None:
    slices = [endpoints("10.0.0.1", nodeName="here"), endpoints("10.0.0.2", nodeName="there", name="web-2")]
    found, _ = services(service(internalTrafficPolicy="Local"), slices=slices)
    assert weights(found["web"]) == {"10.0.0.1": 1}
    slices = [endpoints(f"10.0.0.{n}", topology={"kubernetes.io/hostname": at}, name=at) for n, at in enumerate(NODES)]
    found, _ = services(service(internalTrafficPolicy="Local"), slices=slices)
    assert weights(found["web"]) == {"10.0.0.0": 1}, "as v1beta1 has it"


def test_endpoints_with_different_ports() -> None:
    slices = [endpoints("10.0.0.1"), endpoints("10.0.0.2", port=9090, name="web-2")]
    found, problems = services(service(), slices=slices)
    assert found["web"].vips == ()
    assert "(8080, 9090), so the service's address is left to kube-proxy" in problems[0]


def test_ports_of_other_protocols() -> None:
    ports = [{"port": 80}, {"port": 90, "protocol": "SCTP"}]
    found, problems = services(service(ports=ports), slices=[endpoints("10.0.0.1")])
    assert [port.port for port in found["web"].ports] == [80]
    assert "port 90/SCTP" in problems[0]


def test_another_name_for_somebody_elsewhere_is_no_service() -> None:
    assert services(service(type="ExternalName", clusterIPs=[])) == ({}, [])


def test_the_address_of_the_api_is_left_alone() -> None:
    """The agent gets there by it, also when what it knows of the backends is old."""
    api = service("kubernetes", selector={}) | {"metadata": {"name": "kubernetes", "namespace": "default"}}
    slices = endpoints("192.0.2.1", of="kubernetes", port=6443)
    slices["metadata"]["namespace"] = "default"
    found, _ = services(api, slices=[slices])
    assert (found["kubernetes"].vips, [str(ip) for ip in found["kubernetes"].ips]) == ((), ["192.0.2.1"])
    assert api_addresses(told(SERVICES, api), told(SLICES, slices)) == ["10.96.0.1", "192.0.2.1"]


POLICY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "p", "namespace": "shop", "annotations": {"note": "\x85\ud83d\ude00"}, "generation": 3},
    "spec": {
        "description": "a caf\u00e9, \u2028 \x7f, a \U0001f600 and a \ufeff",
        "endpointSelector": {},
        "ingress": [{"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}],
    },
    "status": {"conditions": [{"type": "Valid", "status": "True"}]},
}


def test_a_policy_is_read_as_it_was_written() -> None:
    document = as_written(*CILIUM.told(POLICY))
    read = parse_policies(document.data, document.source)
    assert read.problems == ()
    assert str(read.policies[0].key) == "shop/p"
    assert document.source == "kubernetes:CiliumNetworkPolicy/shop/p"


def test_a_problem_is_told_by_kind_name_and_path() -> None:
    wrong = {**POLICY, "spec": {"endpointSelector": {}, "ingres": [{}]}, "other": 1}
    document = as_written(*CILIUM.told(wrong))
    texts = [str(problem) for problem in parse_policies(document.data, document.source).problems]
    assert (
        "kubernetes:CiliumNetworkPolicy/shop/p: spec.ingres: unknown field 'ingres'; did you mean 'ingress'?" in texts
    )
    assert any(text.startswith("kubernetes:CiliumNetworkPolicy/shop/p: other: unknown field 'other'") for text in texts)


def test_secrets_that_a_policy_names() -> None:
    header = {"name": "x", "secret": {"name": "token"}}
    spec = {
        "ingress": [{"toPorts": [{"rules": {"http": [{"headerMatches": [header]}]}}]}],
        "egress": [{"toPorts": [{"originatingTLS": {"secret": {"namespace": "tls", "name": "ca"}}}]}],
    }
    assert secrets_named({"metadata": {"namespace": "shop"}, "spec": spec}) == {("shop", "token"), ("tls", "ca")}
    assert secrets_named({"metadata": {}, "specs": [spec]}) == {("default", "token"), ("tls", "ca")}
    odd: list[Any] = [{"secret": 7}, {"secret": {"name": 7}}, {"secret": {"name": ""}}]
    assert secrets_named({"metadata": {}, "spec": odd}) == set()


def test_a_secret() -> None:
    resource = secret("shop", "token")
    assert resource.selection == {"fieldSelector": "metadata.name=token"}
    made = {"metadata": {"name": "token", "namespace": "shop"}, "data": {"value": "c2VjcmV0"}, "type": "Opaque"}
    document = as_written(*resource.told(made))
    (read,) = parse_policies(document.data, document.source).secrets
    assert (str(read.ref), read.data["value"]) == ("shop/token", b"secret")
