"""Pods that a real kubelet runs, and the agent on their node, which finds them by the control groups that it made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from lockgate.tests.cluster.kubelet import Kubelet, KubeletEngine
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import NODE
from lockgate.tests.e2e.engine import IMAGE
from lockgate.tests.e2e.live_node import DENIED, DROPPED, GLANCE, LiveNode, fetch
from lockgate.tests.e2e.test_agent_kubernetes import POLICY

WEB = "mkdir -p /www; echo yes > /www/open; echo yes > /www/shut; exec httpd -f -p 80 -h /www"
IDLE = "exec sleep 1000000"
PODS = {"api-server": WEB, "frontend": IDLE, "intruder": IDLE}


@dataclass
class Ground:
    """`engine` runs the containers of the pods."""

    live: LiveNode
    api: RealApi
    engine: KubeletEngine

    def put(self, name: str, command: str) -> None:
        """A pod of this node."""
        container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", command]}
        spec: dict[str, Any] = {
            "nodeName": NODE,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [container | {"ports": [{"name": "http", "containerPort": 80}]}],
        }
        self.api.put("pods", {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})

    def ip(self, name: str) -> str:
        """Where a pod is; empty until it runs."""
        status = self.api.get("pods", name)["status"]
        return str(status.get("podIP", "")) if status["phase"] == "Running" else ""

    def containers(self, name: str) -> list[str]:
        """Of a pod, its sandbox among them."""
        return self.engine.docker("ps", "-q", "--filter", f"name=_{name}_default_").split()

    def asks(self, client: str, path: str) -> str:
        """What somebody in the network of a pod is told by the server."""
        (container,) = self.engine.docker("ps", "-q", "--filter", f"name=k8s_c_{client}_").split()
        inside: Any = self.engine.inside(container)
        return fetch(inside, self.ip("api-server"), 80, path, patience=2 * GLANCE)

    def endpoints(self) -> list[str]:
        """What the agent polices."""
        return [str(each["endpoint"]) for each in self.live.lockgate("endpoint", "list", "-o", "json").data]


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        live = LiveNode()
        stack.callback(live.close)
        engine = KubeletEngine(live.node, live.folder / "d")
        stack.callback(engine.close)
        api = RealApi(live.folder / "api", live.node)
        stack.callback(api.close)
        kubelet = Kubelet(live.folder / "kubelet", live.node, api.plane.kubeconfig, engine)
        stack.callback(kubelet.close)
        made = Ground(live, api, engine)
        live.until("the node is there", lambda: api.plane.kubectl("get", "node", NODE) is not None)
        for name, command in PODS.items():
            made.put(name, command)
        stack.callback(lambda: end(made))
        live.until("the pods run", lambda: all(map(made.ip, PODS)))
        for path in live.policies.iterdir():
            path.unlink()
        live.replace(live.workloads, "workloads: []\n")
        config = live.folder / "config.yaml"
        config.write_text(f"kubernetes: {{kubeconfig: {api.kubeconfig(live.folder)}, node: {NODE}}}\n")
        api.apply(POLICY)
        live.start_agent("--config", config)
        yield made


def end(ground: Ground) -> None:
    for name in PODS:
        ground.api.delete("pods", name)
    ground.live.until("no pod is left", lambda: not any(map(ground.containers, PODS)))


def valid(ground: Ground) -> bool:
    conditions = ground.api.get("ciliumnetworkpolicies", "shop").get("status", {}).get("conditions", [])
    return [(each["type"], each["status"]) for each in conditions] == [("Valid", "True")]


def test_a_request_between_pods_is_denied(ground: Ground) -> None:
    live = ground.live
    live.becomes(DENIED, lambda: ground.asks("frontend", "/shut"))
    assert ground.asks("frontend", "/open") == "200 yes"
    assert ground.asks("intruder", "/open") == DROPPED
    told = live.lockgate("flows", "--verdict", "denied").out
    assert "default/frontend" in told and "GET /shut  403" in told
    live.until("its author sees that it is valid", lambda: valid(ground))


def test_a_sandbox_that_the_kubelet_makes_anew(ground: Ground) -> None:
    live = ground.live
    before = set(ground.containers("frontend"))
    ground.engine.docker("kill", *before)
    live.until("it runs again", lambda: len(set(ground.containers("frontend")) - before) == 2)
    live.until("all is well", live.ok)
    live.becomes(DENIED, lambda: ground.asks("frontend", "/shut"))


def test_a_pod_that_comes_and_goes(ground: Ground) -> None:
    live = ground.live
    ground.api.delete("pods", "intruder")
    live.until("it is no endpoint", lambda: "default/intruder" not in ground.endpoints())
    live.until("its containers are gone", lambda: not ground.containers("intruder"))
    ground.put("intruder", IDLE)
    live.until("it is an endpoint", lambda: "default/intruder" in ground.endpoints())
    live.until("it runs", lambda: bool(ground.ip("intruder")))
    live.becomes(DROPPED, lambda: ground.asks("intruder", "/open"))
