"""The store against an API server: pages, refusals, memory. On a node: tests/e2e/test_agent_kubernetes.py."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest
from lockgate.store.content import StoreContent
from lockgate.store.errors import KubernetesError
from lockgate.store.kubernetes import Cluster, KubernetesStore, api, condition, follower, store
from lockgate.store.kubernetes.memory import Memory
from lockgate.store.kubernetes.pod_process import _pod_of
from lockgate.tests.kubernetes_api import ApiServer, loopback

NODE = {"metadata": {"name": "here"}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    made = ApiServer(tmp_path_factory.mktemp("api"), loopback)
    yield made
    made.close()


@pytest.fixture
def server(shared: ApiServer, monkeypatch: pytest.MonkeyPatch) -> ApiServer:
    monkeypatch.setattr(store, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(follower, "_FIRST_PAUSE", 0.01)
    shared.store.__init__()  # type: ignore[misc]
    shared.handler.failing.clear()
    shared.handler.requests.clear()
    shared.put("nodes", NODE)
    return shared


def made(server: ApiServer, folder: Path, token: str = "") -> KubernetesStore:
    path = server.kubeconfig(folder, token) if token else server.kubeconfig(folder)
    return KubernetesStore(Cluster("here", path), folder / "memory.db")


def sources(content: StoreContent) -> list[str]:
    return [each.source for each in (*content.policies, *content.workloads)]


def pods(content: StoreContent) -> list[str]:
    return [source for source in sources(content) if source.startswith("kubernetes:Pod/")]


def put_pods(server: ApiServer, count: int) -> None:
    for number in range(count):
        put_pod(server, f"p{number}", f"10.0.{number // 250}.{number % 250 + 1}")


def put_pod(server: ApiServer, name: str, ip: str) -> None:
    spec = {"nodeName": "other", "containers": [{"name": "c", "image": "none"}]}
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
    server.put("pods", {"metadata": {"name": name}, "spec": spec, "status": status})


async def test_a_long_list_comes_in_pages(server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE", 5)
    put_pods(server, 12)
    content = await made(server, tmp_path).read()
    assert (len(pods(content)), content.problems) == (12, ())
    assert server.asked("list", "pods") == 3


async def test_a_list_whose_rest_is_forgotten_is_asked_for_again(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "PAGE", 5)
    put_pods(server, 12)
    listing = server.handler._list
    forgotten: list[str] = []

    def list_once(plural: str, *rest: object) -> object:
        answer = listing(plural, *rest)  # type: ignore[arg-type]
        if plural == "pods" and not forgotten:
            forgotten.append(plural)
            server.store.version += 1
            server.store.forget()
        return answer

    monkeypatch.setattr(server.handler, "_list", list_once)
    content = await made(server, tmp_path).read()
    assert len(pods(content)) == 12


@pytest.mark.parametrize(
    ("token", "failing", "reason"),
    [
        ("wrong", {}, "401 Unauthorized"),
        (
            "",
            {"pods": (500, "etcd is away")},
            "pods cannot be listed, and no agent before this one knew them: 500 etcd",
        ),
        ("", {"nodes": (404, "gone")}, "nodes cannot be listed, .*: 404 gone"),
    ],
)
async def test_a_first_start_that_cannot_list(
    server: ApiServer, tmp_path: Path, token: str, failing: dict[str, tuple[int, str]], reason: str
) -> None:
    server.handler.failing.update(failing)
    with pytest.raises(KubernetesError, match=reason):
        await made(server, tmp_path, token).read()


async def test_what_an_earlier_agent_knew(server: ApiServer, tmp_path: Path) -> None:
    put_pods(server, 1)
    server.put("ciliumnetworkpolicies", {"metadata": {"name": "p"}, "spec": {"endpointSelector": {}, "ingress": [{}]}})
    known = sources(await made(server, tmp_path).read())
    assert known == [
        "kubernetes:CiliumNetworkPolicy/default/p",
        "kubernetes:Node/here",
        "kubernetes:Pod/default/p0",
    ]
    server.stop()
    try:
        content = await made(server, tmp_path).read()
    finally:
        server.start()
    assert sources(content) == known
    (problem,) = content.problems
    assert problem.startswith("kubernetes: ciliumnetworkpolicies, ") and "what was known of them stays" in problem
    assert (tmp_path / "memory.db").stat().st_mode & 0o777 == 0o600


async def test_one_collection_that_fails_does_not_hold_up_the_others(server: ApiServer, tmp_path: Path) -> None:
    followed = made(server, tmp_path)
    assert pods(await followed.read()) == []
    server.handler.failing["services"] = (503, "not now")
    server.do(server.store.end_watches)
    async with aclosing(followed.changes()) as changes:  # type: ignore[type-var]
        async with asyncio.timeout(60):
            put_pods(server, 1)
            async for content in changes:
                if pods(content) and content.problems:
                    break
    assert content.problems == (
        "kubernetes: services cannot be followed (503 not now); what was known of them stays enforced",
    )


async def test_a_cluster_with_another_version_of_a_collection(server: ApiServer, tmp_path: Path) -> None:
    """Kubernetes before 1.21 has EndpointSlices as v1beta1; an upgrade changes that while the agent runs."""
    kind, new, namespaced = server.store.kinds["endpointslices"]
    server.store.kinds["endpointslices"] = kind, "discovery.k8s.io/v1beta1", namespaced
    put_service(server, "10.1.0.1")
    followed = made(server, tmp_path)
    content = await followed.read()
    assert (addresses(content), content.problems) == (["10.1.0.1"], ())
    server.store.kinds["endpointslices"] = kind, new, namespaced
    server.do(server.store.end_watches)
    async with aclosing(followed.changes()) as changes, asyncio.timeout(60):  # type: ignore[type-var]
        put_service(server, "10.1.0.2")
        async for content in changes:
            if addresses(content) == ["10.1.0.2"] and not content.problems:
                break


async def test_a_cluster_that_is_set_back_to_a_backup(server: ApiServer, tmp_path: Path) -> None:
    """Its versions begin again below those that are known, and a watch from these would be silent."""
    put_pods(server, 1)
    saved = server.do(server.store.backup)
    put_pods(server, 7)
    followed = made(server, tmp_path)
    assert len(pods(await followed.read())) == 7
    async with aclosing(followed.changes()) as changes, asyncio.timeout(60):  # type: ignore[type-var]
        put_pod(server, "last", "10.0.9.9")
        assert len(pods(await anext(changes))) == 8
        server.do(lambda: server.store.set_back(saved))
        while len(pods(await anext(changes))) != 1:
            pass
        put_pods(server, 2)
        while len(pods(await anext(changes))) != 2:
            pass


def put_service(server: ApiServer, backend: str) -> None:
    spec = {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]}
    server.put("services", {"metadata": {"name": "web"}, "spec": spec})
    metadata = {"name": "web-x", "labels": {"kubernetes.io/service-name": "web"}}
    endpoints = [{"addresses": [backend], "topology": {"kubernetes.io/hostname": "here"}}]
    told = {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 8080}]}
    server.put("endpointslices", {"metadata": metadata, **told})


def addresses(content: StoreContent) -> list[str]:
    """Of the backends of all services."""
    told = [json.loads(each.data) for each in content.workloads if each.source.startswith("kubernetes:Service/")]
    return [backend["ip"] for each in told for entry in each["services"] for backend in entry.get("backends", ())]


async def test_a_node_that_the_cluster_does_not_have(server: ApiServer, tmp_path: Path) -> None:
    server.delete("nodes", "here")
    (problem,) = (await made(server, tmp_path).read()).problems
    assert "no node is called here" in problem


GOOD = {"type": "Valid", "status": "True", "message": "Policy validation succeeded", "lastTransitionTime": "then"}
BAD = {"type": "Valid", "status": "False", "message": "spec: wrong", "lastTransitionTime": "then"}
OTHER = {"type": "Other", "status": "True"}


@pytest.mark.parametrize(
    ("conditions", "fault", "then"),
    [
        ([GOOD, OTHER], "", None),
        ([OTHER, BAD], "spec: wrong", None),
        ([BAD, OTHER], "spec: worse", [OTHER, BAD | {"message": "spec: worse"}]),
        ([OTHER], "", [OTHER, GOOD | {"lastTransitionTime": "now"}]),
        ([BAD], "", [GOOD | {"lastTransitionTime": "now"}]),
        ([GOOD], "spec: wrong", [BAD | {"lastTransitionTime": "now"}]),
    ],
)
def test_conditions(conditions: list[dict[str, str]], fault: str, then: list[dict[str, str]] | None) -> None:
    wanted = condition._with(conditions, fault)
    for each in wanted or []:
        if each.get("lastTransitionTime", "then") != "then":
            each["lastTransitionTime"] = "now"
    assert wanted == then


def test_memory(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    memory = Memory(path)
    assert memory.recall() == {}
    one, two = {"metadata": {"name": "one"}}, {"metadata": {"name": "two"}}
    memory.keep({"pods": {"one": one, "two": two}, "secret": {"s": one}, "nodes": {}})
    memory.keep({"pods": {"two": two | {"phase": "Failed"}}, "nodes": {}})
    memory.close()
    again = Memory(path)
    assert again.recall() == {"pods": {"two": two | {"phase": "Failed"}}, "nodes": {}}
    again.keep({"pods": {}, "nodes": {}})
    again.close()
    assert Memory(path).recall() == {"pods": {}, "nodes": {}}


def test_memory_that_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    path.write_text("no database, but longer than the header of one would be" * 10)
    memory = Memory(path)
    assert memory.recall() == {}
    assert "file is not a database" in memory.problem and "remove it if it is broken" in memory.problem
    path.unlink()
    memory.keep({"pods": {"one": {}}})
    assert memory.problem == ""
    memory.close()
    assert json.dumps(Memory(path).recall()) == '{"pods": {"one": {}}}'


UID = "1f0a6c0e-0d3c-4a53-9d0e-6a5f0c2b7a11"
SYSTEMD = UID.replace("-", "_")
HASH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("group", "found"),
    [
        (f"0::/kubepods/burstable/pod{UID}/0a1b", (UID, 4)),
        (f"0::/kubepods/pod{UID}/0a1b", (UID, 3)),
        (f"4:memory:/x\n1:pids:/kubepods/besteffort/pod{UID}/0a1b\n0::/\n", (UID, 4)),
        (
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SYSTEMD}.slice/cri-containerd-0a.scope",
            (UID, 4),
        ),
        (f"0::/../../kubepods-pod{UID.replace('-', '_')}.slice/crio-0a.scope", (UID, 4)),
        (f"0::/kubepods/burstable/pod{HASH}/0a1b", (HASH, 4)),
        (f"0::/kubepods/burstable/pod{UID}", (UID, 3)),
        ("0::/system.slice/podman.service", None),
        (f"0::/kubepods/pod{UID}0/x", None),
        ("", None),
    ],
)
def test_whose_a_control_group_is(tmp_path: Path, group: str, found: tuple[str, int] | None) -> None:
    (tmp_path / "cgroup").write_text(group)
    assert _pod_of(tmp_path) == found


def test_a_control_group_may_be_called_by_no_text(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_bytes(b"0::/\xff\n")
    assert _pod_of(tmp_path) is None


def test_who_has_no_cluster_does_not_wait_for_it() -> None:
    code = "import sys, lockgate.agent.node; print([name for name in sys.modules if '.kubernetes' in name])"
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[]"
