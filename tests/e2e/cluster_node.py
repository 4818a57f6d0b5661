"""A node of a cluster for tests: an API server in the node's network, pods as the API tells of them, whose processes
are in control groups named as the kubelet names them, and the agent following the API.

There is no kubelet: what it would do (make a sandbox, tell of its address) tests do.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Pod
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode, Web
from lockgate.tests.kubernetes_api import ApiServer, loopback

NODE = "worker-1"


def cgroups() -> Path:
    """Where control groups can be made."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    raise RuntimeError("no cgroup v2 hierarchy is mounted")


class ClusterNode:
    """`live` is the node. Its pods (frontend, backend, ...) are unknown to the cluster until `tell` tells of them."""

    def __init__(self, live: LiveNode, api: ApiServer) -> None:
        self.live = live
        self.api = api
        self.slice = cgroups() / f"kubepods-{live.ground.name}.slice"
        self.webs: list[Web] = []
        self._sandboxes: dict[str, tuple[subprocess.Popen[Any], Path]] = {}
        self.config = live.folder / "config.yaml"
        for path in live.policies.iterdir():
            path.unlink()
        live.replace(live.workloads, "workloads: []\n")
        self.configure()
        self.api.put("nodes", {"metadata": {"name": NODE, "labels": {"zone": "a"}}, "status": _addresses("10.200.0.1")})
        self.api.put("namespaces", {"metadata": {"name": "default", "labels": {"team": "shop"}}})

    def configure(self, **more: object) -> None:
        """Writes the agent's configuration."""
        kubernetes = {"kubeconfig": str(self.api.kubeconfig(self.live.folder)), "node": NODE, **more}
        text = ", ".join(
            f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in kubernetes.items()
        )
        self.config.write_text(f"kubernetes: {{{text}}}\n")

    def start_agent(self, ready: bool = True) -> None:
        """With `ready` waits until all is in force."""
        self.live.start_agent("--config", self.config, ready=ready)

    def begin(self) -> None:
        """The article's pods, and the agent."""
        live = self.live
        live.api.ports = {"http": 80}
        for pod in (live.frontend, live.intruder, live.backend, live.api):
            self.tell(pod)
        self.start_agent()

    def sandbox(self, name: str, pod: Pod, uid: str) -> None:
        """A process that holds the pod's network, in a control group that tells the pod's uid."""
        process = pod.popen(["sleep", "infinity"])
        self._sandboxes[name] = process, self.group(uid, process.pid)

    def group(self, uid: str, pid: int) -> Path:
        """Puts a process where the kubelet puts those of a pod, with systemd as the manager of groups."""
        escaped = uid.replace("-", "_")
        group = self.slice / f"kubepods-burstable-pod{escaped}.slice" / "cri-containerd-0123.scope"
        group.mkdir(parents=True, exist_ok=True)
        (group / "cgroup.procs").write_text(str(pid))
        return group

    def tell(self, pod: Pod, **more: Any) -> None:
        """A pod of this node, with a sandbox, that runs."""
        ports = [{"name": name, "containerPort": number} for name, number in pod.ports.items()]
        self.put_pod(pod.name, pod.labels, pod.ips, inside=pod, ports=ports, **more)

    def put_pod(
        self,
        name: str,
        labels: Mapping[str, str],
        ips: Iterable[object],
        *,
        inside: Pod | None = None,
        node: str = NODE,
        phase: str = "Running",
        ports: Any = (),
        namespace: str = "default",
        **more: Any,
    ) -> None:
        """What the API tells of a pod. One that is `inside` a network of this node gets a sandbox there."""
        containers = [{"name": "c", "image": "none", "ports": list(ports)}]
        spec = {"nodeName": node, "serviceAccountName": "default", "containers": containers}
        metadata = {"name": name, "namespace": namespace, "labels": dict(labels)}
        if inside is not None:
            made = self.api.put("pods", {"metadata": metadata, "spec": spec | more, "status": {"phase": "Pending"}})
            self.sandbox(name, inside, str(made["metadata"]["uid"]))
        listed = [{"ip": str(ip)} for ip in ips]
        status = {"phase": phase} | ({"podIP": listed[0]["ip"], "podIPs": listed} if listed else {})
        self.api.put("pods", {"metadata": metadata, "spec": spec | more, "status": status})

    def end(self, name: str) -> None:
        """A pod's processes end, and its object goes."""
        self.end_sandbox(name)
        self.api.delete("pods", name)

    def end_sandbox(self, name: str) -> None:
        """Its processes end."""
        process, group = self._sandboxes.pop(name)
        process.kill()
        process.wait()
        with suppress(OSError):
            group.rmdir()
            group.parent.rmdir()

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """What the agent polices, by namespace/name."""
        try:
            return {str(each["endpoint"]): each for each in ask(self.live.run_dir, "/v1/endpoints")}
        except UnreachableError:
            return {}

    def known(self, name: str) -> None:
        """Waits until the agent polices a pod."""
        self.live.until(f"{name} is policed", lambda: bool(self.endpoints().get(name, {}).get("id")))

    def gone(self, name: str) -> None:
        """Waits until it does not."""
        self.live.until(f"{name} is no endpoint", lambda: name not in self.endpoints())

    def watched(self, plural: str) -> None:
        """Waits until the agent watches a collection."""
        self.live.until(f"{plural} are watched", lambda: plural in self.api.watching())

    def told(self, words: str) -> None:
        """Waits until `lockgate status` shows a problem with these words."""
        self.live.until(f"status tells: {words}", lambda: any(words in each for each in self.live.problems()))

    def close(self) -> None:
        """Takes it all away, but for the node."""
        for name in list(self._sandboxes):
            self.end_sandbox(name)
        if self.slice.exists():
            for path in sorted(self.slice.rglob("*"), reverse=True):
                if path.is_dir():
                    path.rmdir()
            self.slice.rmdir()
        self.api.close()
        shutil.rmtree(self.live.folder / "api", ignore_errors=True)


def _addresses(*ips: str) -> dict[str, Any]:
    return {"addresses": [{"type": "InternalIP", "address": ip} for ip in ips]}


def own_server(live: LiveNode) -> ApiServer:
    """The API server of the tests, in the node's network."""
    return ApiServer(live.folder / "api", lambda port: netns.run_in(live.node.path, lambda: loopback(port)))


@contextmanager
def cluster_node(server: Callable[[LiveNode], ApiServer] = own_server) -> Iterator[ClusterNode]:
    """For one module. The agent does not run yet."""
    live = LiveNode()
    try:
        node = ClusterNode(live, server(live))
        try:
            yield node
        finally:
            node.close()
    finally:
        live.close()
