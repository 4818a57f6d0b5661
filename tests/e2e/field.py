"""A live node under attack: pods with raw sockets, and a server whose own capture shows what got through."""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from lockgate.agent.inspection.client import ask
from lockgate.agent.playground import Namespace, Pod
from lockgate.policies.workload import IPAddress
from lockgate.redirect.kernel import netns
from lockgate.tests.e2e.live_node import LiveNode, live_node
from lockgate.tests.e2e.wire import UDP, Wire, ip, udp

L7, L4, SHUT = 80, 8080, 9090  # of the server: by request, without Envoy, not allowed
POLICY = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: field, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: api-server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: frontend}}]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: /allowed}
        - {method: GET, path: /secret, headers: ["X-Role: admin"]}
        - {method: GET, path: /host, host: good}
    - ports: [{port: "8080"}]
"""


class Recorder:
    """A server that answers whatever comes with 200 and keeps every byte of it, connection by connection."""

    def __init__(self, where: Namespace, port: int) -> None:
        self.taken: list[bytearray] = []
        self._socket = netns.run_in(
            where.path, lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        )
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                record = bytearray()
                self.taken.append(record)
                threading.Thread(target=self._answer, args=(connection, record), daemon=True).start()

    def _answer(self, connection: socket.socket, record: bytearray) -> None:
        with suppress(OSError), connection:
            while data := connection.recv(1 << 16):
                record += data
                if b"\r\n\r\n" in data:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def forget(self) -> None:
        """Keeps nothing of what came so far; connections stay."""
        for record in list(self.taken):
            record.clear()

    def everything(self) -> bytes:
        """All that came so far."""
        return b"\n--\n".join(bytes(each) for each in list(self.taken))

    def close(self) -> None:
        """Stop listening."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Field:
    """`frontend` is the one whom the policy lets in, `intruder` is not; `server` has the capture."""

    def __init__(self, node: LiveNode) -> None:
        self.node = node
        self.frontend, self.intruder, self.server = node.frontend, node.intruder, node.api
        self.wires = {pod.name: Wire(pod, node.node) for pod in (self.frontend, self.intruder, self.server)}
        self.record = Recorder(self.server, L7)
        self.open = Recorder(self.server, L4)
        self._ports = count(20000)

    def wire(self, pod: Pod) -> Wire:
        """The pod's interface."""
        return self.wires[pod.name]

    def port(self) -> int:
        """A source port that nothing used before."""
        return next(self._ports)

    def ends(self, family: int, pod: Pod | None = None) -> tuple[IPAddress, IPAddress]:
        """The addresses of a client (the frontend) and of the server."""
        return (pod or self.frontend).ips[family], self.server.ips[family]

    def arrives(
        self, pod: Pod, packets: Sequence[bytes], marks: Sequence[bytes], *, first_piece: int | None = None
    ) -> list[bytes]:
        """Sends the packets from the pod; those frames at the server that have one of the marks. `first_piece`: so many
        bytes of each packet lie in the first piece of memory, the others elsewhere; None: they lie as they come.

        Nothing is waited for but a datagram that is allowed and sent last.
        """
        capture = self.wire(self.server)
        capture.received()
        wire = self.wire(pod)
        for packet in packets:
            wire.send(packet) if first_piece is None else wire.send_in_pieces(packet, first_piece)
        return [frame for frame in self._until_control(capture) if any(mark in frame for mark in marks)]

    def _until_control(self, capture: Wire) -> Iterator[bytes]:
        mark = uuid.uuid4().bytes
        client, server = self.ends(0)
        self.wire(self.frontend).send(ip(client, server, UDP, udp(client, server, self.port(), L4, mark)))
        frames: list[bytes] = []

        def came() -> bool:
            frames.extend(capture.received())
            return any(mark in frame for frame in frames)

        self.node.until("an allowed datagram arrives at the server", came)
        yield from frames

    def counted(self, reason: str) -> int:
        """Packets with this reason so far."""
        counters: list[dict[str, Any]] = ask(self.node.run_dir, "/v1/datapath")["counters"]
        return sum(each["packets"] for each in counters if each["reason"] == reason)

    def say(self, family: int, data: bytes, patience: float = 1.0, port: int = L7) -> bytes:
        """Bytes to the server as the frontend's application sends them, and what comes back until it is quiet."""
        connection = self.connect(family, port)
        with connection:
            with suppress(OSError):
                connection.sendall(data)
            return listen(connection, patience)

    def connect(self, family: int, port: int = L7) -> socket.socket:
        """A connection of the frontend's."""
        address = str(self.server.ips[family])
        return netns.run_in(self.frontend.path, lambda: socket.create_connection((address, port), 5))

    def close(self) -> None:
        """Everything but the node."""
        for wire in self.wires.values():
            wire.close()
        for server in (self.record, self.open):
            server.close()


def listen(connection: socket.socket, patience: float) -> bytes:
    """What comes until the other end closes or says nothing for `patience` seconds."""
    answer = b""
    connection.settimeout(patience)
    with suppress(OSError):
        while data := connection.recv(1 << 16):
            answer += data
    return answer


def pair(sport: int, dport: int) -> bytes:
    """How a segment of these ports begins."""
    return struct.pack("!HH", sport, dport)


@contextmanager
def field(settings: str = "") -> Iterator[Field]:
    """A running node with the policy above and nothing else. `settings` are the text of its config file."""
    with live_node(start=False) as node:
        for path in node.policies.iterdir():
            path.unlink()
        node.webs.pop("api-server").close()
        node.write("field", POLICY)
        made = Field(node)
        try:
            config = node.folder / "config.yaml"
            config.write_text(settings)
            node.start_agent(*(("--config", config) if settings else ()))
            yield made
        finally:
            made.close()


Packets = Callable[[IPAddress, IPAddress, int, bytes], list[bytes]]  # of client, server, source port and mark
