"""A live node with services of several kinds, pods that may ask little of them, and a world beyond it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from ipaddress import ip_address

from lockgate.agent.playground import Namespace, Outside
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode
from lockgate.tests.e2e.name_server import NameServer
from lockgate.tests.e2e.udp_echo import UdpEcho
from lockgate.tests.e2e.wire import Wire

SHOP = ip_address("10.96.0.10"), ip_address("fd00:96::10")  # without Envoy
API = ip_address("10.96.0.11"), ip_address("fd00:96::11")  # by request
ECHO = ip_address("10.96.0.12"), ip_address("fd00:96::12")
NAMES = ip_address("10.96.0.13"), ip_address("fd00:96::13")  # by name
SERVICES = """
services:
- name: shop
  selector: {app: backend}
  vips: [10.96.0.10, "fd00:96::10"]
  ports: [{port: 80, targetPort: 8080}]
- name: api
  selector: {app: api-server}
  vips: [10.96.0.11, "fd00:96::11"]
  ports: [{port: 8000, targetPort: 80}]
- name: echo
  selector: {app: echo}
  vips: [10.96.0.12, "fd00:96::12"]
  ports: [{port: 53, targetPort: 5353, protocol: UDP}]
- name: names
  selector: {app: names}
  vips: [10.96.0.13, "fd00:96::13"]
  ports: [{port: 53, protocol: UDP}]
"""
# The asker may ask a name server for one name, and the world for one path and by L4 ports; the intruder whom it wants.
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: asker, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: asker}}
  egress:
  - toEndpoints: [{matchLabels: {app: names}}]
    toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchName: good.example.com}]}}]
  - toEndpoints: [{matchLabels: {app: api-server}}]
  - toEntities: [world]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /admin}]}
    - ports: [{port: "7000"}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: asked, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: asker}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{path: /users}]}
"""
WORLD_L4 = 7000


class ServiceGround:
    """The node, and the world behind it."""

    def __init__(self, node: LiveNode, opened: ExitStack) -> None:
        self.node = node
        self.outside: Outside = node.ground.outside()
        self.world = opened.enter_context(Wire(self.outside, node.node))
        self.asker = node.ground.pod("asker", labels={"app": "asker"})
        self.echoes = [node.ground.pod(name, labels={"app": "echo"}) for name in ("echo1", "echo2")]
        for pod in self.echoes:
            opened.enter_context(UdpEcho(pod, 5353, answer=pod.name.encode()))
        self.names = node.ground.pod("names", labels={"app": "names"})
        self.name_server = opened.enter_context(closing(NameServer(self.names)))
        self.name_server.zone["good.example.com"] = 3600, ("192.0.2.77",)
        for port in (80, WORLD_L4):
            node.webs[f"outside {port}"] = node.web_at(self.outside, port)
        opened.enter_context(UdpEcho(self.outside, WORLD_L4, answer=b"world"))
        node.write("asker", POLICY)
        self.list_services(SERVICES)

    def list_services(self, services: str) -> None:
        self.node.replace(self.node.workloads, self.node.ground.workloads_yaml() + services)

    def served(self) -> set[str]:
        """The addresses that lead somewhere by the kernel's maps."""
        entries = self.node.lockgate("datapath", "maps", "services", "-o", "json").data
        return {each["address"] for each in entries}

    def leaves(self, send: Callable[[], None]) -> list[bytes]:
        """The frames for a service's address that came to the world until the datagram did that was sent last."""
        self.world.received()
        send()
        mark = os.urandom(16)
        with closing(opened(self.node.intruder, socket.AF_INET, socket.SOCK_DGRAM)) as last:
            last.sendto(mark, (str(self.outside.ips[0]), 4000))
        frames: list[bytes] = []

        def came() -> bool:
            frames.extend(self.world.received())
            return any(mark in frame for frame in frames)

        self.node.until("what may leave leaves", came)
        return [frame for frame in frames if any(vip.packed in frame for vip in (*SHOP, *API, *ECHO, *NAMES))]


def opened(where: Namespace, family: int, kind: int, protocol: int = 0) -> socket.socket:
    return netns.run_in(where.path, lambda: socket.socket(family, kind, protocol))
