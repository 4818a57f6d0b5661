"""A node of a whole cluster, and on it the pod of the DaemonSet of compose/kubernetes, from the image that
compose/Containerfile makes. No agent runs beside it."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.cluster.runtime import Runtime
from lockgate.tests.e2e.engine import IMAGE, Inside
from lockgate.tests.e2e.live_node import GLANCE, LiveNode, fetch

LOCKGATE = "lockgate:local"  # as the manifest names it
WEB = "mkdir -p /www; echo yes > /www/open; echo yes > /www/shut; exec httpd -f -p 80 -h /www"
IDLE = "exec sleep 1000000"
PODS = {"api-server": WEB, "frontend": IDLE, "intruder": IDLE}
_OURS = "app.kubernetes.io/name=lockgate"


class AgentInPod(LiveNode):
    """Its agent is in a container."""

    logs = Path("/")  # of the node's pods

    @property
    def log(self) -> str:
        """What agents said in the containers that are still there."""
        files = sorted(self.logs.glob("lockgate_lockgate-*/lockgate/*.log"), key=os.path.getmtime)
        return "\n".join(line for file in files for line in file.read_text(errors="replace").splitlines()[-40:])


class DaemonSetNode:
    """`live` asks the agent in the pod as an operator on the node does; its own pods are not used."""

    def __init__(self, name: str, live: AgentInPod, api: RealApi, runtime: Runtime) -> None:
        self.name = name
        self.live = live
        self.api = api
        self.runtime = runtime
        live.run_dir = runtime.files.place("/run/lockgate")
        live.logs = runtime.files.place("/var/log/pods")

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """What it printed."""
        plane = self.api.plane
        ended = plane.tried("kubectl", "--kubeconfig", str(plane.kubeconfig), *arguments, input=input)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout

    def put(self, name: str, command: str, **more: Any) -> None:
        """A pod of this node. `more` is of its container."""
        container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", command]}
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"kubernetes.io/hostname": self.name},
            "containers": [container | {"ports": [{"name": "http", "containerPort": 80}]} | more],
        }
        self.api.put("pods", {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})

    def delete(self, name: str) -> None:
        """A pod goes, and everything of it."""
        self.api.delete("pods", name)
        self.live.until(f"{name} is no endpoint", lambda: f"default/{name}" not in self.endpoints())
        self.live.until("its containers are gone", lambda: not self.runtime.containers(name))

    def ip(self, name: str) -> str:
        """Where a pod is; empty until it runs."""
        status = self.api.get("pods", name)["status"]
        return str(status.get("podIP", "")) if status["phase"] == "Running" else ""

    def ips(self, name: str) -> list[str]:
        """All addresses of a pod that runs."""
        return [each["ip"] for each in self.api.get("pods", name)["status"]["podIPs"]]

    def inside(self, name: str) -> Any:
        """The network of a pod."""
        (container,) = self.runtime.containers(name, "c")
        return self._inside(container)

    def asks(self, client: str, path: str, server: str = "api-server", family: int = 0) -> str:
        """What somebody in the network of a pod of this node is told by the server, wherever that is."""
        return fetch(self.inside(client), self.ips(server)[family], 80, path, patience=2 * GLANCE)

    def endpoints(self) -> list[str]:
        """What the agent polices."""
        told = self.live.lockgate("endpoint", "list", "-o", "json")
        return [str(each["endpoint"]) for each in told.data if each["id"]] if told.status == 0 else []

    def own_pods(self) -> list[dict[str, Any]]:
        """Of the DaemonSet on this node, as the API tells."""
        told = json.loads(self.kubectl("-n", "lockgate", "get", "pods", "-l", _OURS, "-o", "json"))
        return [each for each in told["items"] if each["spec"].get("nodeName") == self.name]

    def ready(self, *but: str) -> str:
        """The uid of the pod of the DaemonSet, if it is the only one, ready, and none of `but`; else empty."""
        pods = self.own_pods()
        if len(pods) != 1 or pods[0]["metadata"]["uid"] in but or "deletionTimestamp" in pods[0]["metadata"]:
            return ""
        return str(pods[0]["metadata"]["uid"]) if condition(pods[0]) == "True" else ""

    def becomes_ready(self, *but: str) -> str:
        """Waits for that."""
        return self.live.until("its pod is ready", lambda: self.ready(*but), 300)

    def own_container(self) -> Inside:
        """That the agent is the first process of."""
        return self._inside(self.runtime.own_container())

    def kill(self, containers: list[str]) -> None:
        """Their first processes, without a word."""
        for container in containers:
            os.kill(self.runtime.pid(container), signal.SIGKILL)

    def _inside(self, container: str) -> Inside:
        return Inside(container, self.runtime.pid(container), "")

    def evidence(self) -> str:
        """What a failed start should show."""
        with suppress(AssertionError):
            events = self.kubectl("get", "events", "-A")
            return f"{self.kubectl('get', 'pods', '-A', '-o', 'wide')}\n{events}\n{self.live.log}"
        return self.live.log


def condition(pod: dict[str, Any], kind: str = "Ready") -> str:
    """The status of one of a pod's conditions."""
    return {each["type"]: str(each["status"]) for each in pod["status"].get("conditions", ())}.get(kind, "")
