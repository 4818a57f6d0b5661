"""Containers that are not known yet, and what comes through from and to them."""

from __future__ import annotations

import socket
import subprocess
import time
from contextlib import closing, suppress
from ipaddress import ip_address

from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.container_ground import Capture, Ground
from lockgate.tests.e2e.engine import IMAGE, Inside
from lockgate.tests.e2e.live_node import GLANCE
from lockgate.tests.ethernet import Link, frames

# Of a container, from its first instruction on: to each ADDRESS:PORT again and again.
KNOCKS = (
    'for each in "$@"; do (while :; do nc -w 1 ${each%:*} ${each#*:} </dev/null; sleep 0.02; done) & done; sleep 10000'
)


class Knocking:
    """A container that knocks, from its first instruction on, outside, at the node and at a container on its bridge, on
    one port that nobody else asks for. The doors are there before it is."""

    def __init__(self, ground: Ground, port: int, *options: object) -> None:
        self.ground, self.port, self.options = ground, port, options
        engine = ground.engine
        beside = ground.name("beside")
        there = engine.container(beside)
        ground.known(f"default/{beside}")
        outside = ground.node.ground.outside()
        gateway = engine.docker("inspect", "-f", "{{.NetworkSettings.Gateway}}", beside)
        self._targets = [f"{ip}:{port}" for ip in (outside.ips[0], there.ip, gateway)]
        self._captures = {"outside": Capture(outside), "beside": Capture(there)}
        self._node = netns.run_in(ground.node.node.path, lambda: socket.create_server(("0.0.0.0", port)))
        self._node.setblocking(False)
        self._reached: set[str] = set()
        self.name = ground.name("knocking")

    def start(self) -> Inside:
        """Its process begins."""
        command = ["/bin/sh", "-c", KNOCKS, "sh", *self._targets]
        self.ground.engine.docker("run", "-d", "--name", self.name, *self.options, IMAGE, *command)
        return self.ground.engine.inside(self.name)

    def reached(self) -> set[str]:
        """The doors that something has come to."""
        self._reached |= {where for where, capture in self._captures.items() if self.port in capture.ports}
        with suppress(BlockingIOError):
            self._node.accept()[0].close()
            self._reached.add("node")
        return self._reached

    def goes_on(self) -> None:
        """Waits until it has knocked at each door a few times more, or asked in vain where the doors are."""
        with closing(Capture(self.ground.engine.inside(self.name), leaving=True)) as sent:
            self.ground.node.until(
                "it has knocked", lambda: sent.ports.count(self.port) > 9 or sent.neighbours_asked > 5
            )

    def close(self) -> None:
        self._node.close()
        for capture in self._captures.values():
            capture.close()


EVERYWHERE = {"outside", "beside", "node"}


class Pair:
    """Two containers that start now. They know each other's hardware address, so that not even ARP is in between."""

    def __init__(self, ground: Ground, *options: object) -> None:
        self.ground = ground
        self.names = [ground.name("pair"), ground.name("pair")]
        self.one, self.two = (ground.engine.container(name, *options) for name in self.names)
        self.links = [Link(each.path) for each in (self.one, self.two)]
        ground.serve(self.two)
        for here, there, link in ((self.one, self.two, self.links[1]), (self.two, self.one, self.links[0])):
            mac = link.mac.hex(":")
            inside(here, "ip", "neigh", "replace", there.ip, "lladdr", mac, "dev", "eth0", "nud", "permanent")

    def known(self) -> None:
        """The agent polices both; from now on they ask each other where they are."""
        for name in self.names:
            self.ground.known(f"default/{name}")

    def passes(self) -> set[str]:
        """What of everything that one sends comes to the other."""
        here, there = self.links
        four = (ip_address(self.one.ip), ip_address(self.two.ip))
        six = (ip_address("fe80::1:1"), ip_address("fe80::1:2"))
        here.send(frames(here.mac, there.mac, four, six, there.mac))
        time.sleep(GLANCE)
        return there.received()

    def close(self) -> None:
        for link in self.links:
            link.close()


def inside(where: Inside, *command: str) -> None:
    subprocess.run(["nsenter", f"--net={where.path}", *command], check=True, timeout=30)
