"""A node of a cluster with pods that the agent has not seen: as a plugin connects them that routes, or one that has a
bridge."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from lockgate.agent.playground import NODE_IPV4, Namespace, Pod
from lockgate.tests.e2e.cluster_node import NODE, ClusterNode, cluster_node
from lockgate.tests.e2e.container_ground import Capture
from lockgate.tests.e2e.live_node import DROPPED, GLANCE, UNREACHABLE, LiveNode, Web, fetch
from lockgate.tests.ethernet import Link, frames

ROUTED, BRIDGED = "routed", "bridged"
BRIDGE = "cni0"
PODCIDRS = ("10.200.0.0/16", "fd00:200::/64")
_GATEWAY4, _GATEWAY6 = "10.200.77.1", "fd00:200::77:1"
PORT = 9017  # of everybody's, and asked by nobody but new pods


class UnseenPods:
    """`cluster` is the node; `outside` and the node itself have servers at PORT, and so has the api-server, which
    everybody may ask for it."""

    def __init__(self, cluster: ClusterNode, kind: str) -> None:
        self.cluster, self.kind = cluster, kind
        self.live: LiveNode = cluster.live
        self.outside = self.live.ground.outside()
        self._next = 2
        self.names = 0
        self.doors = {
            "outside": Web(self.outside, PORT),
            "the node": Web(self.live.node, PORT),
            "a pod": Web(self.live.api, PORT),
        }
        self.captures = {"outside": Capture(self.outside), "a pod": Capture(self.live.api)}
        addresses = {"addresses": [{"type": "InternalIP", "address": str(NODE_IPV4)}]}
        metadata = {"name": NODE, "labels": {"zone": "a"}}
        cluster.api.put("nodes", {"metadata": metadata, "spec": {"podCIDRs": list(PODCIDRS)}, "status": addresses})

    def pod(self, **labels: str) -> Pod:
        """A new pod, of which nobody has told anything."""
        self.names += 1
        pod = self.live.ground.pod(f"new{self.names}", labels=labels)
        if self.kind == BRIDGED:
            self._to_bridge(pod)
        else:
            self._call(pod, f"cali{secrets.token_hex(6)[:11]}")
        self.live.webs[pod.name] = Web(pod, PORT)
        return pod

    def _run(self, *command: str) -> None:
        self.live.node.run(["ip", *command], check=True)

    def _call(self, pod: Pod, interface: str) -> None:
        self._run("link", "set", pod.interface, "name", interface)
        pod.interface = interface

    def _to_bridge(self, pod: Pod) -> None:
        """As the plugin `bridge` does, which makes the bridge with the first pod and gives it an address to keep."""
        if self.live.node.run(["ip", "link", "show", BRIDGE]).returncode:
            self._run("link", "add", BRIDGE, "address", "0a:58:0a:c8:4d:01", "up", "type", "bridge")
            self._run("addr", "add", f"{_GATEWAY4}/24", "dev", BRIDGE)
            self._run("addr", "add", f"{_GATEWAY6}/112", "dev", BRIDGE, "nodad")
        for ip in pod.ips:
            self._run(f"-{ip.version}", "route", "del", str(ip), "dev", pod.interface)
        self._run("addr", "flush", "dev", pod.interface)
        pod.ipv4, pod.ipv6 = IPv4Address(f"10.200.77.{self._next}"), IPv6Address(f"fd00:200::77:{self._next}")
        self._next += 1
        self._call(pod, f"veth{secrets.token_hex(4)}")
        self._run("link", "set", pod.interface, "master", BRIDGE)
        for command in (
            ("addr", "flush", "dev", "eth0", "scope", "global"),
            ("addr", "add", f"{pod.ipv4}/24", "dev", "eth0"),
            ("addr", "add", f"{pod.ipv6}/112", "dev", "eth0", "nodad"),
            ("route", "replace", "default", "via", _GATEWAY4),
            ("-6", "route", "replace", "default", "via", _GATEWAY6),
        ):
            pod.run(["ip", *command], check=True)

    def tell(self, pod: Pod) -> None:
        """The API tells of it, and it has a process."""
        self.cluster.tell(pod)

    def reached(self, pod: Pod) -> set[str]:
        """Whom it reaches, by their own word and by what comes to them."""
        before = {name: len(capture.ports) for name, capture in self.captures.items()}
        asked = {
            "outside": self.outside.ips,
            "the node": (NODE_IPV4, _GATEWAY4 if self.kind == BRIDGED else "fe80::1%eth0"),
            "a pod": self.live.api.ips,
        }
        found = set()
        for name, addresses in asked.items():
            self.doors[name].seen.clear()
            for address in addresses:
                fetch(pod, address, PORT, patience=GLANCE)
            if self.doors[name].seen:
                found.add(name)
        for name, capture in self.captures.items():
            if PORT in capture.ports[before[name] :]:
                found.add(name)
        return found

    def reached_by(self, pod: Pod) -> set[str]:
        """Who reaches it."""
        web = self.live.webs[pod.name]
        askers: dict[str, Namespace] = {
            "outside": self.outside,
            "the node": self.live.node,
            "a pod": self.live.frontend,
        }
        found = set()
        for name, where in askers.items():
            web.seen.clear()
            outcomes = {fetch(where, ip, PORT, patience=GLANCE) for ip in pod.ips}
            if web.seen or outcomes - {DROPPED, UNREACHABLE}:
                found.add(name)
        return found

    def passes(self, one: Pod, two: Pod) -> set[str]:
        """What of everything that one can send comes to the other, on one link or by way of the node."""
        here, there = Link(one.path), Link(two.path)
        try:
            up = self._up(one)
            for mac in {there.mac, up}:
                here.send(frames(here.mac, mac, (one.ipv4, two.ipv4), (one.ipv6, two.ipv6), there.mac))
                stolen = ip_address("10.200.99.9"), two.ipv4
                here.send(frames(here.mac, mac, stolen, (ip_address("fd00:200::99"), two.ipv6), there.mac))
            time.sleep(GLANCE)
            return there.received()
        finally:
            here.close()
            there.close()

    def _up(self, pod: Pod) -> bytes:
        """The hardware address of the node at the pod's link."""
        where = BRIDGE if self.kind == BRIDGED else pod.interface
        shown = self.live.node.run(["cat", f"/sys/class/net/{where}/address"])
        if shown.returncode:  # /sys shows another namespace's
            told = self.live.node.run(["ip", "-o", "link", "show", where], check=True).stdout
            return bytes.fromhex(told.partition("link/ether ")[2].split()[0].replace(":", ""))
        return bytes.fromhex(shown.stdout.strip().replace(":", ""))

    def remove(self, *pods: Pod) -> None:
        """They end, and the API forgets them."""
        for pod in pods:
            with suppress(KeyError):
                self.cluster.end(pod.name)
            self.live.remove(pod)
            self.cluster.gone(f"default/{pod.name}")

    def close(self) -> None:
        for door in self.doors.values():
            door.close()
        for capture in self.captures.values():
            capture.close()


EVERYBODY = {"outside", "the node", "a pod"}


@contextmanager
def unseen_pods(kind: str) -> Iterator[UnseenPods]:
    """With the article's pods, which are known, and an agent. For one module."""
    with cluster_node() as cluster:
        made = UnseenPods(cluster, kind)
        try:
            cluster.begin()
            yield made
        finally:
            made.close()
