"""Flows from a client pod whose answers are known: what a change of policy must flip, and what it must leave alone."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from lockgate.redirect.kernel import netns

from .errors import CheckError

ALLOWED = "allowed"
DENIED = "denied"
DROPPED = "dropped"
CLOSED = "closed"

_ANSWER_SECONDS = 5.0  # an answer on a connection that stands; later is as wrong as a false one
_PAUSE = 0.001  # seconds between two looks, so that the looking takes little from who is measured
_CYCLE = 0.01  # seconds between two rounds in the background


class HttpFlow:
    """GETs of one path on one connection that is kept. 200 is allowed, 403 denied."""

    def __init__(self, client: Path, address: IPv4Address, port: int, path: str) -> None:
        self._client = client
        self._address = (str(address), port)
        self._request = f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()
        self._socket: socket.socket | None = None

    def ask(self) -> str:
        """One request. A connection that broke is replaced at the next one."""
        try:
            if self._socket is None:
                self._socket = netns.run_in(
                    self._client, lambda: socket.create_connection(self._address, _ANSWER_SECONDS)
                )
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(self._request)
            status = _answer(self._socket)
        except TimeoutError:
            status = DROPPED
        except OSError:
            status = CLOSED
        if status in (DROPPED, CLOSED):
            self.close()
        return status

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Knock:
    """New TCP connections to one port: allowed when one comes about within `patience` seconds, else dropped."""

    def __init__(self, client: Path, address: IPv4Address, port: int, patience: float) -> None:
        self._client = client
        self._address = (str(address), port)
        self._patience = patience

    def ask(self) -> str:
        """One connection, ended by RST so that no port waits in TIME_WAIT."""
        with netns.run_in(self._client, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as knocking:
            knocking.setblocking(False)
            knocking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            with suppress(BlockingIOError):
                knocking.connect(self._address)
            _, writable, _ = select.select([], [knocking], [], self._patience)
            if not writable:
                return DROPPED
            return ALLOWED if knocking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0 else CLOSED

    def close(self) -> None:
        """Nothing is held."""


Flow = HttpFlow | Knock


def await_answer(flow: Flow, wanted: str, seconds: float) -> float:
    """Ask until the answer is `wanted`; returns the moment (monotonic) when it was known.

    The answer of a drop is that none comes: it counts from the moment of the question.

    Raises:
        CheckError: it did not come in time.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        answer = flow.ask()
        now = time.monotonic()
        if answer == wanted:
            return asked if answer == DROPPED else now
        if now > deadline:
            raise CheckError(f"a change was not enforced after {seconds:.0f} s: {answer} instead of {wanted}")
        time.sleep(_PAUSE)


class Watch:
    """Asks flows over and over in the background and counts the answers that are not as they should be."""

    def __init__(self, flows: dict[str, tuple[Flow, str]]) -> None:
        """`flows` by a name for each, with the answer that each must always have."""
        self._flows = flows
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=(name,), name=f"watch {name}", daemon=True) for name in flows
        ]
        self.asked = dict.fromkeys(flows, 0)
        self.wrong: list[str] = []

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for flow, _wanted in self._flows.values():
            flow.close()

    def _follow(self, name: str) -> None:
        flow, wanted = self._flows[name]
        while not self._stop.wait(_CYCLE):
            answer = flow.ask()
            self.asked[name] += 1
            if answer != wanted:
                self.wrong.append(f"{name}: {answer} instead of {wanted}")


def _answer(connection: socket.socket) -> str:
    """Reads one response with a content-length."""
    held = b""
    while b"\r\n\r\n" not in held:
        held += _more(connection)
    head, _, body = held.partition(b"\r\n\r\n")
    fields = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    length = next((int(value) for name, _, value in fields if name.strip().lower() == b"content-length"), 0)
    while len(body) < length:
        body += _more(connection)
    status = head.split(b" ", 2)[1].decode()
    return {"200": ALLOWED, "403": DENIED}.get(status, status)


def _more(connection: socket.socket) -> bytes:
    got = connection.recv(4096)
    if not got:
        raise ConnectionResetError("the other side ended the connection")
    return got


def until(condition: Callable[[], bool], seconds: float, what: str, pause: float = 0.005) -> float:
    """Waits for `condition`; returns the moment when it held. `pause` are seconds between two looks.

    Raises:
        CheckError: it did not hold in time; `what` names it.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise CheckError(f"{what} not after {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic()
