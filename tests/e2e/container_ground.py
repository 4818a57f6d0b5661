"""A node with a container engine in it, for tests: containers with servers, and what a container sends and gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

from lockgate.agent.errors import UnreachableError
from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.engine import Engine, Inside
from lockgate.tests.e2e.live_node import GLANCE, LiveNode, Web, fetch, live_node

SHOP = ("--label", "com.docker.compose.service=shop", "--label", "lockgate.ports=http=8080")
TILL = ("--label", "app=till")
PORTS = 8080, 8081
_ALL, _IP, _ARP = 3, 0x0800, 0x0806  # ETH_P_...
_TCP, _OUTGOING = 6, 4  # PACKET_OUTGOING


class Ground:
    """A node with an engine in it, a pod beside the engine, and the agent following both."""

    def __init__(self, node: LiveNode, engine: Engine) -> None:
        self.node, self.engine = node, engine
        self.webs: list[Web] = []
        self._named = 0

    def start_agent(self, ready: bool = True, more: str = "") -> None:
        config = self.node.folder / "config.yaml"
        config.write_text(f"engines: ['{self.engine.url}']\n{more}")
        self.node.start_agent("--config", config, ready=ready)

    def endpoints(self) -> dict[str, dict[str, object]]:
        try:
            listed = ask(self.node.run_dir, "/v1/endpoints")
        except UnreachableError:
            return {}
        return {str(each["endpoint"]): each for each in listed}

    def known(self, name: str) -> None:
        """Waits until the agent polices it."""
        self.node.until(f"{name} is policed", lambda: bool(self.endpoints().get(name, {}).get("id")))

    def selected(self, name: str) -> None:
        """Waits until a policy for what comes to it is in force: one that is written behind it may come after it."""
        self.node.until(
            f"{name} has a policy", lambda: self.endpoints().get(name, {}).get("ingress", "open") in ("L4", "L7")
        )

    def gone(self, name: str) -> None:
        self.node.until(f"{name} is no endpoint", lambda: name not in self.endpoints())

    def name(self, what: str) -> str:
        self._named += 1
        return f"{what}-{self._named}"

    def shop(self, *options: object) -> tuple[str, Inside]:
        """A container with servers, policed."""
        name = self.name("shop")
        inside = self.engine.container(name, *SHOP, *options)
        self.serve(inside)
        self.known(f"default/{name}")
        return name, inside

    def till(self, *options: object) -> tuple[str, Inside]:
        """A container that may ask a shop."""
        name = self.name("till")
        inside = self.engine.container(name, *TILL, *options)
        self.known(f"default/{name}")
        return name, inside

    def serve(self, inside: Inside) -> None:
        self.webs += [Web(cast(Namespace, inside), port) for port in PORTS]

    def seen(self) -> list[tuple[str, str]]:
        return [(each.client, each.path) for web in self.webs for each in web.seen]

    def ask(self, client: Inside, server: Inside, path: str, port: int = 8080) -> str:
        return fetch(cast(Namespace, client), server.ip, port, path, patience=GLANCE * 3)

    def clear(self) -> None:
        """Takes the containers and servers away."""
        for web in self.webs:
            web.close()
        self.webs.clear()
        for number in self.engine.docker("ps", "-aq").split():
            self.engine.docker("rm", "-f", number)


@contextmanager
def container_ground(kind: str) -> Iterator[Ground]:
    """A node with an engine and without policies, whose agent has not started."""
    with ExitStack() as stack:
        node = stack.enter_context(live_node(start=False))
        # As on a machine: a bridge asks for its neighbours from a link-local address.
        node.node.run(["sysctl", "-w", "net.ipv6.conf.default.addr_gen_mode=0"], check=True)
        engine = Engine(kind, node.node, node.folder / "e")
        stack.callback(engine.close)
        # The engine's own rules forward nothing but its containers' traffic; this is about ours.
        engine.run(["iptables", "-P", "FORWARD", "ACCEPT"])
        for path in node.policies.iterdir():
            path.unlink()
        node.ground.outside()
        made = Ground(node, engine)
        try:
            yield made
        finally:
            for web in made.webs:
                web.close()


class Capture:
    """The ports that TCP segments over IPv4 are for, and how often ARP asks: of what comes in, or leaves."""

    def __init__(self, where: Namespace | Inside, interface: str = "eth0", *, leaving: bool = False) -> None:
        def listen() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
            made.bind((interface, _ALL))
            made.setblocking(False)
            return made

        self._leaving = leaving
        self._socket = netns.run_in(where.path, listen)
        self._ports: list[int] = []
        self._asked = 0

    @property
    def ports(self) -> list[int]:
        """Of all segments so far, in their order."""
        self._read()
        return self._ports

    @property
    def neighbours_asked(self) -> int:
        """How often so far."""
        self._read()
        return self._asked

    def _read(self) -> None:
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 16)
            except BlockingIOError:
                return
            if (address[2] == _OUTGOING) is not self._leaving:
                continue
            if address[1] == _IP and frame[23] == _TCP:
                start = 14 + 4 * (frame[14] & 15)
                self._ports.append(int.from_bytes(frame[start + 2 : start + 4], "big"))
            self._asked += address[1] == _ARP

    def close(self) -> None:
        """Stop capturing."""
        self._socket.close()
