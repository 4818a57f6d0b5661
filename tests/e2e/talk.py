"""One connection of which a test holds both ends, as itself or as a WebSocket in it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from lockgate.agent.playground import Namespace
from lockgate.redirect.kernel import netns

UPGRADE = b"GET /stream HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass
class Talk:
    """Both ends of one connection that says nothing unless a test does."""

    client: socket.socket
    server: socket.socket

    def lives(self) -> bool:
        """True when each end hears the other."""
        with suppress(OSError):
            for here, there in ((self.client, self.server), (self.server, self.client)):
                here.sendall(b"hello")
                if there.recv(5) != b"hello":
                    return False
            return True
        return False


def ended(end: socket.socket) -> bool:
    """True when the kernel has told this end, which only listens. False: it still waits."""
    end.setblocking(False)
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        end.settimeout(20)


@contextmanager
def talk(where: Namespace, ip: str, port: int, listener: socket.socket) -> Iterator[Talk]:
    """A new connection, which leads to the listener."""
    with _dialled(where, ip, port) as client, _accepted(listener) as server:
        yield Talk(client, server)


@contextmanager
def stream(
    where: Namespace, ip: str, port: int, listener: socket.socket, path: str = "/stream", header: bytes = b""
) -> Iterator[Talk]:
    """A new WebSocket that begins with a request for `path`: a proxy on the way connects when it has that. `header` is
    one line more of its head."""
    with _dialled(where, ip, port) as client:
        head = UPGRADE.replace(b"/stream", path.encode("latin-1"))
        client.sendall(head if not header else head.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n"))
        with _accepted(listener) as server:
            while not server.recv(4096).endswith(b"\r\n\r\n"):
                pass
            server.sendall(SWITCHED)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += client.recv(4096)
            assert answer.startswith(b"HTTP/1.1 101")
            yield Talk(client, server)


def _dialled(where: Namespace, ip: str, port: int) -> socket.socket:
    return netns.run_in(where.path, lambda: socket.create_connection((ip, port), 20))


def _accepted(listener: socket.socket) -> socket.socket:
    server, _ = listener.accept()
    server.settimeout(20)
    return server
