"""Connections of transparent sockets are ended by address, and nobody else's."""

from __future__ import annotations

import ctypes
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from lockgate.redirect.proxy_sockets import end_carried

_NEW_NETWORK = 0x40000000
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
ADDRESSES = ("10.9.0.2", "10.9.0.3", "10.9.0.10", "fd00:9::2", "fd00:9::10")


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """A network namespace of its own with these addresses."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        assert libc.unshare(_NEW_NETWORK) == 0, "these tests need root"
        try:
            added = "\n".join(f"ip addr add {each} dev lo {'nodad' if ':' in each else ''}" for each in ADDRESSES)
            subprocess.run(["sh", "-ec", f"ip link set lo up\n{added}"], check=True)
            yield
        finally:
            assert libc.setns(home.fileno(), _NEW_NETWORK) == 0


def connection(stack: ExitStack, source: str, destination: str, *, transparent: bool) -> socket.socket:
    """The client's side of one; `transparent` is the server's."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    with socket.socket(family) as listener:
        if transparent and family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        elif transparent:
            listener.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        listener.bind((destination, 0))
        listener.listen()
        client = stack.enter_context(closing(socket.socket(family)))
        client.bind((source, 0))
        client.connect(listener.getsockname()[:2])
        stack.enter_context(listener.accept()[0])
    return client


def lives(client: socket.socket, patience: float = 0.05) -> bool:
    """True when nothing happens to it for so long."""
    client.settimeout(patience)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False
    raise AssertionError("closed without a reset")


def is_reset(client: socket.socket) -> bool:
    """True as soon as it is."""
    return not lives(client, 30.0)


@pytest.mark.parametrize(
    ("source", "destination", "other"),
    [("10.9.0.2", "10.9.0.10", "10.9.0.3"), ("fd00:9::2", "fd00:9::10", "10.9.0.3")],
)
def test_a_proxys_connections_with_an_address_are_reset(source: str, destination: str, other: str) -> None:
    with ExitStack() as stack:
        carried = connection(stack, source, destination, transparent=True)
        others = connection(stack, other, "10.9.0.10", transparent=True)
        own = connection(stack, source, destination, transparent=False)
        assert end_carried(frozenset()) == end_carried({ip_address("10.9.9.9")}) == 0
        assert lives(carried)
        assert end_carried({ip_address(source)}) == 1
        assert is_reset(carried) and lives(others) and lives(own)
        assert end_carried({ip_address("10.9.0.10")}) == 1  # at the other end
        assert is_reset(others) and lives(own)
