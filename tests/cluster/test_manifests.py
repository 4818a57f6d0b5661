"""What a real API server makes of compose/kubernetes and of the policies in policies/examples."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lockgate.policies import Severity, parse_policies
from lockgate.tests.cluster.real_api import KINDS, RealApi, Refused, path
from lockgate.tests.kubernetes_objects import custom_kinds
from lockgate.tests.kubernetes_roles import MANIFEST

EXAMPLES = sorted(
    each
    for each in (Path(__file__).parents[2] / "policies" / "examples").glob("*.yaml")
    if not each.name.endswith(".test.yaml")
)
PLURALS = {kind: plural for plural, (kind, _, _) in KINDS.items()}
NEWER = {"appArmorProfile"}  # of the manifest's fields those that Kubernetes 1.20 does not know


def test_the_manifests_are_taken(api: RealApi) -> None:
    for ended in api.manifests:
        assert (ended.returncode, ended.stderr) == (0, "")
    for crd in ("ciliumnetworkpolicies", "ciliumclusterwidenetworkpolicies"):
        told = api.ask("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{crd}.cilium.io")
        conditions = {each["type"]: each["status"] for each in told["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}, "a schema that is not structural is told"


def test_what_of_the_manifest_this_release_does_not_know(api: RealApi) -> None:
    plane = api.plane
    ended = plane.tried("kubectl", f"--kubeconfig={plane.kubeconfig}", "apply", "--dry-run=client", "-f", str(MANIFEST))
    assert set(re.findall(r'unknown field "(\w+)"', ended.stderr)) == NEWER
    assert "missing required" not in ended.stderr


def documents() -> Iterator[Any]:
    for example in EXAMPLES:
        for number, each in enumerate(yaml.safe_load_all(example.read_text())):
            yield pytest.param(each, id=f"{example.stem}-{number}")


@pytest.mark.parametrize("told", list(documents()))
def test_every_example_is_taken_and_means_what_it_meant(api: RealApi, told: dict[str, Any]) -> None:
    """Of our own kinds everything is kept; of the others the server writes down what is meant by default."""
    plural = PLURALS[told["kind"]]
    namespace = told["metadata"].get("namespace", "default") if KINDS[plural][2] else ""
    if namespace:
        api.put("namespaces", {"metadata": {"name": namespace}})
    made = api.put(plural, told)
    api.delete(plural, told["metadata"]["name"], namespace)
    if plural in custom_kinds():
        assert {**made, "metadata": told["metadata"]} == told
    assert meant(made) == meant({**known(told), "metadata": {"namespace": namespace, **told["metadata"]}})


def known(told: dict[str, Any]) -> dict[str, Any]:
    """Without `endPort` of a NetworkPolicy, which came with Kubernetes 1.21: this one drops it without a word."""
    if told["kind"] != "NetworkPolicy":
        return told
    spec = json.loads(json.dumps(told["spec"]))
    for entry in (*spec.get("ingress", ()), *spec.get("egress", ())):
        for port in entry.get("ports", ()):
            port.pop("endPort", None)
    return {**told, "spec": spec}


def meant(told: dict[str, Any]) -> tuple[Any, ...]:
    """What the agent makes of it."""
    metadata = {key: value for key, value in told["metadata"].items() if key in ("name", "namespace") and value}
    parsed = parse_policies(json.dumps({**told, "metadata": metadata}).encode(), "here", {})
    assert not [each for each in parsed.problems if each.severity is Severity.ERROR]
    return parsed.policies, parsed.secrets


@pytest.mark.parametrize("spec", ["text", ["list"], 7])
def test_nonsense_is_refused(api: RealApi, spec: object) -> None:
    told = {"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": "bad"}, "spec": spec}
    with pytest.raises(Refused, match="spec in body must be of type object"):
        api.ask("POST", path("ciliumnetworkpolicies", "default"), told)


MAY = [("list", "pods", ""), ("watch", "endpointslices.discovery.k8s.io", ""), ("list", "secrets", "lockgate-secrets")]
MAY_NOT = [("list", "secrets", ""), ("list", "secrets", "default"), ("get", "pods", ""), ("create", "pods", "default")]
MAY_NOT += [("patch", "ciliumnetworkpolicies.cilium.io", "default"), ("delete", "nodes", "")]


@pytest.mark.parametrize(("verb", "what", "where"), MAY + MAY_NOT)
def test_what_the_agent_may_do(api: RealApi, verb: str, what: str, where: str) -> None:
    account = "--as=system:serviceaccount:lockgate:lockgate"
    scope = [f"--namespace={where}"] if where else ["--all-namespaces"]
    ended = api.plane.tried(
        "kubectl", f"--kubeconfig={api.plane.kubeconfig}", "auth", "can-i", verb, what, account, *scope
    )
    assert ended.stdout.strip() == ("yes" if (verb, what, where) in MAY else "no"), ended.stderr
