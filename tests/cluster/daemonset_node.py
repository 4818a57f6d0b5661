"""A node of a whole cluster: control plane, kubelet, kube-proxy, Docker, and on it the pod of the DaemonSet of
compose/kubernetes, from the image that compose/Containerfile makes. No agent runs beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from lockgate.tests.cluster.control_plane import BINARIES
from lockgate.tests.cluster.kubelet import Kubelet, KubeletEngine
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import NODE
from lockgate.tests.e2e.engine import IMAGE, Inside
from lockgate.tests.e2e.live_node import GLANCE, LiveNode, fetch

log = logging.getLogger(__name__)
IMAGE_FILE = BINARIES.parent / "image" / "image.tar"
LOCKGATE = "lockgate:local"  # as the manifest names it
WEB = "mkdir -p /www; echo yes > /www/open; echo yes > /www/shut; exec httpd -f -p 80 -h /www"
IDLE = "exec sleep 1000000"
PODS = {"api-server": WEB, "frontend": IDLE, "intruder": IDLE}
_OWN_CONTAINER = "name=k8s_lockgate_lockgate-"
_OURS = "app.kubernetes.io/name=lockgate"


class _LiveNode(LiveNode):
    """Its agent is in a container."""

    engine: KubeletEngine

    @property
    def log(self) -> str:
        """What agents said in the containers that are still there."""
        numbers = self.engine.docker("ps", "-aq", "--filter", _OWN_CONTAINER).split()
        return "\n".join(self.engine.said("logs", "--tail", "40", number) for number in numbers)


class DaemonSetNode:
    """`live` asks the agent in the pod as an operator on the node does; its own pods are not used."""

    def __init__(self, live: LiveNode, api: RealApi, engine: KubeletEngine) -> None:
        self.live = live
        self.api = api
        self.engine = engine
        live.run_dir = engine.place("/run/lockgate")

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        """What it printed."""
        plane = self.api.plane
        ended = plane.tried("kubectl", "--kubeconfig", str(plane.kubeconfig), *arguments, input=input)
        assert ended.returncode == 0, f"kubectl {' '.join(arguments)}: {ended.stderr}"
        return ended.stdout

    def put(self, name: str, command: str) -> None:
        """A pod, which the scheduler is to find a node for."""
        container = {"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", command]}
        spec: dict[str, Any] = {
            "terminationGracePeriodSeconds": 0,
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

    def inside(self, name: str) -> Any:
        """The network of a pod."""
        (container,) = self.engine.docker("ps", "-q", "--filter", f"name=k8s_c_{name}_").split()
        return self.engine.inside(container)

    def asks(self, client: str, path: str) -> str:
        """What somebody in the network of a pod is told by the server."""
        return fetch(self.inside(client), self.ip("api-server"), 80, path, patience=2 * GLANCE)

    def endpoints(self) -> list[str]:
        """What the agent polices."""
        told = self.live.lockgate("endpoint", "list", "-o", "json")
        return [str(each["endpoint"]) for each in told.data] if told.status == 0 else []

    def own_pods(self) -> list[dict[str, Any]]:
        """Of the DaemonSet, as the API tells."""
        told = json.loads(self.kubectl("-n", "lockgate", "get", "pods", "-l", _OURS, "-o", "json"))
        return list(told["items"])

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
        return self.engine.inside(self._own_container())

    def inspected(self) -> dict[str, Any]:
        """What Docker tells of it."""
        told: dict[str, Any] = json.loads(self.engine.docker("inspect", self._own_container()))[0]
        return told

    def _own_container(self) -> str:
        (container,) = self.engine.docker("ps", "-q", "--filter", _OWN_CONTAINER).split()
        return container

    def evidence(self) -> str:
        """What a failed start should show."""
        with suppress(AssertionError):
            events = self.kubectl("get", "events", "-A")
            return f"{self.kubectl('get', 'pods', '-A', '-o', 'wide')}\n{events}\n{self.live.log}"
        return self.live.log


def condition(pod: dict[str, Any], kind: str = "Ready") -> str:
    """The status of one of a pod's conditions."""
    return {each["type"]: str(each["status"]) for each in pod["status"].get("conditions", ())}.get(kind, "")


@contextmanager
def daemonset_node() -> Iterator[DaemonSetNode]:
    """Its pod is ready, and three others run: of them `api-server` is asked by the others."""
    if not IMAGE_FILE.exists():
        raise RuntimeError(f"there is no {IMAGE_FILE}: run scripts/cluster, which builds it")
    with ExitStack() as stack:
        live = _LiveNode()
        stack.callback(live.close)
        live.ground.outside()  # without a route to everywhere no address of a service can be asked
        log.info("Docker starts")
        live.engine = engine = KubeletEngine(live.node, live.folder / "d")
        stack.callback(engine.close)
        # Docker's own rules forward nothing but its containers' traffic; this is about ours.
        engine.run(["iptables", "-P", "FORWARD", "ACCEPT"])
        log.info("Docker takes the image of the Containerfile")
        engine.load(IMAGE_FILE)
        engine.docker("tag", f"localhost/{LOCKGATE}", LOCKGATE)
        api = RealApi(live.folder / "api", live.node, whole=True)
        stack.callback(api.close)
        log.info("the kubelet starts")
        kubelet = Kubelet(live.folder / "kubelet", live.node, api.plane.kubeconfig, engine)
        stack.callback(kubelet.close)
        made = DaemonSetNode(live, api, engine)
        live.until("the node is there", lambda: api.plane.kubectl("get", "node", NODE) is not None)
        stack.callback(lambda: _end(made))
        log.info("pods start, the DaemonSet's first")
        try:
            for name, command in PODS.items():
                live.until("pods have an account", lambda: api.plane.kubectl("get", "serviceaccount", "default"))
                made.put(name, command)
            made.becomes_ready()
            live.until("the pods run", lambda: all(map(made.ip, PODS)))
        except AssertionError as error:
            raise AssertionError(f"{error}\n{made.evidence()}\n{kubelet.log.read_text()[-4000:]}") from None
        yield made
        log.info("the node is taken down")


def _end(node: DaemonSetNode) -> None:
    """The pods go, then the DaemonSet, then what its agent left on the node."""
    with suppress(AssertionError):
        node.kubectl("-n", "lockgate", "delete", "daemonset", "lockgate", "--ignore-not-found")
        node.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        node.live.until("no pod is left", lambda: not node.engine.docker("ps", "-q"))
    assert node.live.clean().status == 0
