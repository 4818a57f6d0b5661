"""Clusters with all that there is on a node: control plane, runtime, kubelet, kube-proxy, the DaemonSet's pod."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from lockgate.agent.playground import OUTSIDE_IPV4
from lockgate.tests.cluster import network_plugin
from lockgate.tests.cluster.containerd import Containerd
from lockgate.tests.cluster.control_plane import BINARIES, HOST
from lockgate.tests.cluster.daemonset_node import LOCKGATE, PODS, AgentInPod, DaemonSetNode
from lockgate.tests.cluster.docker_runtime import DockerRuntime
from lockgate.tests.cluster.kube_proxy import KubeProxy
from lockgate.tests.cluster.kubelet import Kubelet
from lockgate.tests.cluster.real_api import RealApi
from lockgate.tests.e2e.cluster_node import NODE
from lockgate.tests.e2e.live_node import LiveNode

log = logging.getLogger(__name__)
_IPV6 = ["fd00:18::1", "fd00:18::2"]  # of two nodes on the link between them
IMAGE_FILE = BINARIES.parent / "image" / "image.tar"


@dataclass(frozen=True, slots=True)
class Kind:
    """How a node's pods are run and connected."""

    network: Literal["docker", "bridge", "ptp"]  # Docker and its bridge; containerd and one of the plugins
    masquerade: bool = True

    def __str__(self) -> str:
        return self.network


DOCKER, CONTAINERD = Kind("docker"), Kind("bridge")


@contextmanager
def whole_cluster(kind: Kind, *others: Kind, dual: bool = False) -> Iterator[list[DaemonSetNode]]:
    """Nodes `worker-1` and so on. The DaemonSet's pods are ready, and on the first node three others run: of them
    `api-server` is asked by the others. The first node also has the control plane. `dual`: pods that a plugin connects
    have IPv6 addresses beside."""
    if not IMAGE_FILE.exists():
        raise RuntimeError(f"there is no {IMAGE_FILE}: run scripts/cluster, which builds it")
    with ExitStack() as stack:
        lives = [_host(stack) for _ in (kind, *others)]
        ips = _join(lives) if others else [HOST]
        api = RealApi(lives[0].folder / "api", lives[0].node, whole=True, host=ips[0], dual=dual)
        stack.callback(api.close)
        nodes = []
        for number, (live, ip, each) in enumerate(zip(lives, ips, (kind, *others), strict=True)):
            name = NODE if number == 0 else f"worker-{number + 1}"
            nodes.append(_node(stack, live, api, name, ip, each, dual))
        _connect(nodes, ips, (kind, *others))
        stack.callback(lambda: _end(nodes))
        log.info("pods start, the DaemonSet's first")
        first = nodes[0]
        try:
            account = ("get", "serviceaccount", "default")
            first.live.until("pods have an account", lambda: api.plane.kubectl(*account) is not None)
            for name, command in PODS.items():
                first.put(name, command)
            for node in nodes:
                node.becomes_ready()
            first.live.until("the pods run", lambda: all(map(first.ip, PODS)))
        except AssertionError as error:
            logs = [path.read_text()[-3000:] for node in nodes for path in node.live.folder.glob("kubelet/log")]
            raise AssertionError("\n".join([str(error), first.evidence(), *logs])) from None
        yield nodes
        log.info("the cluster is taken down")


def _host(stack: ExitStack) -> AgentInPod:
    live = AgentInPod()
    stack.callback(live.close)
    live.ground.outside()  # without a route to everywhere no address of a service can be asked
    # A bridge without a link-local address finds no neighbours; the playground's interfaces have one by hand.
    assert live.node.run(["sysctl", "-w", "net.ipv6.conf.default.addr_gen_mode=0"]).returncode == 0
    return live


def _node(
    stack: ExitStack, live: AgentInPod, api: RealApi, name: str, ip: str, kind: Kind, dual: bool
) -> DaemonSetNode:
    log.info("%s: %s starts, and takes the image of the Containerfile", name, kind)
    runtime: DockerRuntime | Containerd
    if kind.network == "docker":
        runtime = DockerRuntime(live.node, live.folder / "d")
    else:
        runtime = Containerd(live.node, live.folder / "c")
    stack.callback(runtime.close)
    runtime.load(IMAGE_FILE, LOCKGATE)
    kubeconfig = api.plane.admin(api.plane.host)
    proxy = KubeProxy(live.folder / "kube-proxy", name, live.node, kubeconfig, dual)
    stack.callback(proxy.close)
    kubelet = Kubelet(live.folder / "kubelet", name, ip, live.node, kubeconfig, runtime, live.ground.name, dual)
    stack.callback(kubelet.close)
    made = DaemonSetNode(name, live, api, runtime)
    live.until(f"{name} is there", lambda: api.plane.kubectl("get", "node", name) is not None)
    return made


def _join(lives: Sequence[LiveNode]) -> list[str]:
    """A link between two nodes; the addresses that they have on it."""
    first, second = lives
    _ip(first, f"link add between type veth peer name between netns {second.node.netns}")
    for number, live in enumerate(lives, 1):
        _ip(live, f"address add 172.18.0.{number}/24 dev between")
        _ip(live, f"address add {_IPV6[number - 1]}/64 dev between nodad")
        _ip(live, "link set between up")
        # As whom it asks others than its neighbours: the address that the cluster knows.
        _ip(live, f"route replace default via {OUTSIDE_IPV4} src 172.18.0.{number}")
    return ["172.18.0.1", "172.18.0.2"]


def _connect(nodes: Sequence[DaemonSetNode], ips: Sequence[str], kinds: Sequence[Kind]) -> None:
    """What the cluster's network is, once its controller has given each node a part of the pods' addresses."""
    of_nodes = [node.live.until("it has prefixes", lambda at=node: _prefixes(at)) for node in nodes]  # type: ignore[misc]
    for node, kind, prefixes in zip(nodes, kinds, of_nodes, strict=True):
        if isinstance(node.runtime, Containerd) and kind.network != "docker":
            network_plugin.write(node.runtime.networks, kind.network, prefixes, masquerade=kind.masquerade)
        for ip, ipv6, others in zip(ips, _IPV6, of_nodes, strict=False):
            for other in others:
                if other not in prefixes:
                    _ip(node.live, f"route add {other} via {ipv6 if ':' in other else ip}")


def _prefixes(node: DaemonSetNode) -> list[str]:
    return list(node.api.get("nodes", node.name)["spec"].get("podCIDRs", ()))


def _ip(live: LiveNode, words: str) -> None:
    ended = live.node.run(["ip", *words.split()])
    assert ended.returncode == 0, f"ip {words}: {ended.stderr}"


def _end(nodes: Sequence[DaemonSetNode]) -> None:
    """The pods go, then the DaemonSet, then what its agents left on the nodes."""
    with suppress(AssertionError):
        nodes[0].kubectl("-n", "lockgate", "delete", "daemonset", "lockgate", "--ignore-not-found")
        nodes[0].kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        for node in nodes:
            node.live.until("no pod is left", lambda at=node: not at.runtime.containers())  # type: ignore[misc]
    for node in nodes:
        assert node.live.clean().status == 0
