"""The files of compose/: valid for the tools that read them, and of one mind about rights, paths and policies.

What they do is tried in tests/e2e/test_compose.py and tests/e2e/test_systemd_unit.py.
"""

from __future__ import annotations

import re
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from lockgate.agent.config_file import NODE_NAME, read_config
from lockgate.agent.machine.host import _RIGHTS
from lockgate.agent.settings import DEFAULT_CACHE_DIR, DEFAULT_STATE_DIR, KubernetesSettings
from lockgate.policies import parse_policies
from lockgate.store import read_documents
from lockgate.store.kubernetes.resource import WATCHED

COMPOSE = Path(__file__).resolve().parents[3] / "compose"
UNIT = COMPOSE / "systemd" / "lockgate.service"
MANIFESTS: list[dict[str, Any]] = list(yaml.safe_load_all((COMPOSE / "kubernetes" / "lockgate.yaml").read_text()))
CRDS: list[dict[str, Any]] = list(yaml.safe_load_all((COMPOSE / "kubernetes" / "crds.yaml").read_text()))
RIGHTS = {name.removeprefix("CAP_") for name in _RIGHTS}
PATHS = "--policies /etc/lockgate/policies --workloads /etc/lockgate/workloads --config /etc/lockgate/config.yaml"
COMMAND = f"agent run {PATHS}"


def manifest(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in MANIFESTS if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


@pytest.mark.parametrize("each", MANIFESTS + CRDS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_manifests_follow_the_schemas_of_kubernetes(each: dict[str, Any]) -> None:
    kubernetes_validate.validate(each, "1.31", strict=True)


def test_a_wrong_manifest_would_be_found() -> None:
    wrong = manifest("DaemonSet", "lockgate") | {"spec": {"selector": {}, "template": {"spec": {"hostPid": True}}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_every_volume_is_mounted_and_every_map_there() -> None:
    pod = manifest("DaemonSet", "lockgate")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            manifest("ConfigMap", volume["configMap"]["name"])


def test_all_grant_what_the_agent_asks_for_and_no_more() -> None:
    service = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]["lockgate"]
    # Where Envoy outlives a container, its supervisor starts the next one in another container's file system.
    assert (set(service["cap_add"]), service["cap_drop"]) == (RIGHTS | {"SYS_CHROOT"}, ["ALL"])
    (container,) = manifest("DaemonSet", "lockgate")["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": sorted(RIGHTS | {"SYS_CHROOT"})}
    bounding = re.findall(r"^CapabilityBoundingSet=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert [set(line.split()) for line in bounding] == [set(_RIGHTS)]


def test_all_have_a_place_for_what_outlives_a_container_or_a_reboot() -> None:
    places = {str(place) for place in (DEFAULT_STATE_DIR, DEFAULT_CACHE_DIR)}
    compose = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    mounted = dict(each.split(":")[:2][::-1] for each in compose["services"]["lockgate"]["volumes"])
    assert {mounted[place] for place in places} == set(compose["volumes"])
    pod = manifest("DaemonSet", "lockgate")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    paths = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    mounts = {each["mountPath"]: paths.get(each["name"]) for each in container["volumeMounts"]}
    assert {mounts[place] for place in places} == places
    unit = UNIT.read_text()
    for kind, place in (("State", DEFAULT_STATE_DIR), ("Cache", DEFAULT_CACHE_DIR)):
        assert f"{kind}Directory={place.name}\n{kind}DirectoryMode=0700\n" in unit


def test_all_start_the_agent_alike() -> None:
    unit = ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    assert unit["Service"]["ExecStart"] == f"/opt/lockgate/bin/lockgate {COMMAND}"
    (command,) = re.findall(r"^CMD (\[.*\])$", (COMPOSE / "Containerfile").read_text(), re.MULTILINE)
    assert yaml.safe_load(command) == COMMAND.split()


def test_the_unit_is_one_for_systemd(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/opt/lockgate/bin/lockgate", "/bin/true")
    (tmp_path / UNIT.name).write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / UNIT.name], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_policies_are_accepted() -> None:
    read_config(COMPOSE / "config.yaml")
    (document,) = read_documents(COMPOSE / "policies")
    parsed = parse_policies(document.data, document.source)
    assert parsed.policies and not parsed.problems


def test_the_agents_configuration_in_kubernetes_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "worker-1")
    config = tmp_path / "config.yaml"
    config.write_text(manifest("ConfigMap", "lockgate")["data"]["config.yaml"])
    assert read_config(config) == {
        "metrics_port": 9964,
        "kubernetes": KubernetesSettings("worker-1"),
        "envoy_cgroup": "/",
    }
    (container,) = manifest("DaemonSet", "lockgate")["spec"]["template"]["spec"]["containers"]
    (variable,) = container["env"]
    assert variable["name"] == NODE_NAME


def test_the_agent_may_ask_for_what_it_asks_for_and_nothing_else() -> None:
    """That it needs no more tests/e2e/test_agent_kubernetes.py shows, whose API server has these roles."""
    asked = {("", each) for each in ("namespaces", "nodes", "pods", "services")}
    asked |= {(each.api_version.partition("/")[0], each.plural) for each in WATCHED if "/" in each.api_version}
    assert asked == {(each.api_version.rpartition("/")[0], each.plural) for each in WATCHED}
    granted = {
        (group, resource)
        for rule in manifest("ClusterRole", "lockgate")["rules"]
        if rule["verbs"] == ["list", "watch"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert granted == asked
    others = [rule for rule in manifest("ClusterRole", "lockgate")["rules"] if rule["verbs"] != ["list", "watch"]]
    statuses = ["ciliumnetworkpolicies/status", "ciliumclusterwidenetworkpolicies/status"]
    assert others == [{"apiGroups": ["cilium.io"], "resources": statuses, "verbs": ["patch"]}]
    assert manifest("ClusterRole", "lockgate-secrets")["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"]}
    ]
    kinds = [each["kind"] for each in MANIFESTS if each["kind"].endswith("Binding")]
    assert sorted(kinds) == ["ClusterRoleBinding", "RoleBinding"], "secrets of one namespace only"


@pytest.mark.parametrize("each", CRDS, ids=lambda each: each["spec"]["names"]["kind"])
def test_kinds_of_policy_keep_fields_that_nobody_knows(each: dict[str, Any]) -> None:
    """Whatever the API server drops the agent cannot refuse."""
    spec = each["spec"]
    assert each["metadata"]["name"] == f"{spec['names']['plural']}.{spec['group']}"
    (version,) = spec["versions"]
    resource = {resource.plural: resource for resource in WATCHED}[spec["names"]["plural"]]
    assert f"{spec['group']}/{version['name']}" == resource.api_version
    assert spec["names"]["kind"] == resource.kind
    schema = version["schema"]["openAPIV3Schema"]
    keeps = (schema, schema["properties"]["spec"], schema["properties"]["specs"]["items"])
    assert all(part["x-kubernetes-preserve-unknown-fields"] for part in keeps)
