"""A service of the node itself: one process in a control group of its own, which does with sockets what it is told.

Run as a program it is that process: a JSON object a line on standard input, its outcome a line on standard output.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import cgroup

ANSWERED, DROPPED, REFUSED, CLOSED = "answered", "dropped", "refused", "closed"
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
_QUESTION = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"


class NodeService:
    """Its process, in the control group `group`, which is made. To be closed."""

    def __init__(self, node: Namespace, group: str) -> None:
        self.group = group
        self.folder = cgroup.root() / group.lstrip("/")
        self.folder.mkdir(parents=True)
        inside = ["sh", "-c", 'echo 0 > "$0/cgroup.procs" && exec "$@"', str(self.folder)]
        program = [sys.executable, "-P", "-m", "lockgate.tests.e2e.node_service"]
        self._process = node.popen([*inside, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def serve(self, port: int) -> None:
        """Answer every request at this port, by TCP over both families, and every datagram."""
        self._tell("serve", port=port)

    def connect(self, ip: object, port: int, patience: float = 1.0) -> tuple[int, str]:
        """Open a connection and keep it: its number for `ask`, and ANSWERED, DROPPED or REFUSED."""
        number, outcome = self._tell("connect", ip=str(ip), port=port, patience=patience)
        return number, outcome

    def ask(self, connection: int, patience: float = 1.0) -> str:
        """One request on a connection: ANSWERED, DROPPED (no answer) or CLOSED."""
        return str(self._tell("ask", connection=connection, patience=patience))

    def fetch(self, ip: object, port: int, patience: float = 1.0) -> str:
        """A request on a connection of its own."""
        number, outcome = self.connect(ip, port, patience)
        return self.ask(number, patience) if outcome == ANSWERED else outcome

    def send(self, ip: object, port: int, patience: float = 1.0, source: int = 0) -> str:
        """One datagram, from a port if it is to be a certain one: ANSWERED or DROPPED."""
        return str(self._tell("send", ip=str(ip), port=port, patience=patience, source=source))

    def send_raw(self, *packets: bytes) -> None:
        """IPv4 packets with all their headers."""
        self._tell("send_raw", packets=[each.hex() for each in packets])

    def close(self) -> None:
        """End the process and take the group away."""
        self._process.kill()
        self._process.communicate()
        path = self.folder
        while path != cgroup.root():
            with suppress(OSError):  # others are in it
                path.rmdir()
            path = path.parent

    def _tell(self, what: str, **more: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


class _Sockets:
    def __init__(self) -> None:
        self._kept: list[socket.socket] = []

    def serve(self, port: int) -> None:
        listening = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
        for family in (socket.AF_INET, socket.AF_INET6):
            echo = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                echo.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            echo.bind(("", port))
            threading.Thread(target=_echo, args=(echo,), daemon=True).start()

    def connect(self, ip: str, port: int, patience: float) -> tuple[int, str]:
        opened = socket.socket(_family(ip), socket.SOCK_STREAM)
        self._kept.append(opened)
        opened.settimeout(patience)
        outcome = ANSWERED
        try:
            opened.connect((ip, port))
        except TimeoutError:
            outcome = DROPPED
        except ConnectionError:
            outcome = REFUSED
        return len(self._kept) - 1, outcome

    def ask(self, connection: int, patience: float) -> str:
        opened = self._kept[connection]
        opened.settimeout(patience)
        try:
            opened.sendall(_QUESTION)
            return ANSWERED if opened.recv(1 << 16) else CLOSED
        except TimeoutError:
            return DROPPED
        except OSError:
            return CLOSED

    def send_raw(self, packets: list[str]) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as opened:
            for each in map(bytes.fromhex, packets):
                with suppress(PermissionError):
                    opened.sendto(each, (socket.inet_ntoa(each[16:20]), 0))

    def send(self, ip: str, port: int, patience: float, source: int) -> str:
        with socket.socket(_family(ip), socket.SOCK_DGRAM) as opened:
            opened.settimeout(patience)
            opened.bind(("", source))
            try:
                opened.sendto(b"?", (ip, port))
                return ANSWERED if opened.recv(1 << 16) else CLOSED
            except (TimeoutError, PermissionError):  # who may not send is told
                return DROPPED

    def _accept(self, listening: socket.socket) -> None:
        while True:
            accepted, _ = listening.accept()
            threading.Thread(target=_answer, args=(accepted,), daemon=True).start()


def _family(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def _answer(accepted: socket.socket) -> None:
    with accepted, suppress(OSError):
        while accepted.recv(1 << 16):
            accepted.sendall(_ANSWER)


def _echo(opened: socket.socket) -> None:
    while True:
        data, sender = opened.recvfrom(1 << 16)
        with suppress(OSError):
            opened.sendto(data, sender)


def _run() -> None:
    sockets = _Sockets()
    doing: dict[str, Callable[..., object]] = {
        "serve": sockets.serve,
        "connect": sockets.connect,
        "ask": sockets.ask,
        "send": sockets.send,
        "send_raw": sockets.send_raw,
    }
    for line in sys.stdin:
        told = json.loads(line)
        print(json.dumps(doing[told.pop("do")](**told)), flush=True)


if __name__ == "__main__":
    _run()
