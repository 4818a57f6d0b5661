"""Connections of transparent sockets are listed as their ends see them, and ended one by one."""

from __future__ import annotations

import ctypes
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address
from pathlib import Path

import pytest
from lockgate.redirect.proxy_sockets import carried, end_carried
from lockgate.redirect.routing import MARK_UPSTREAM

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
            # The kernel makes an IPv6 address ready in its own time, NODAD or not.
            ready = "\n".join(f"until ip route get {each} >/dev/null 2>&1; do sleep 0.01; done" for each in ADDRESSES)
            subprocess.run(["sh", "-ec", f"ip link set lo up\n{added}\n{ready}"], check=True, timeout=10)
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
def test_a_proxys_connections_are_reset_and_no_others(source: str, destination: str, other: str) -> None:
    with ExitStack() as stack:
        ours = connection(stack, source, destination, transparent=True)
        others = connection(stack, other, "10.9.0.10", transparent=True)
        own = connection(stack, source, destination, transparent=False)
        found = {(each.client, each.server): each for each in carried()}
        first = found.pop((ip_address(source), ip_address(destination)))
        (second,) = found.values()
        assert first.accepted and (first.client_port, first.server_port) == (
            ours.getsockname()[1],
            ours.getpeername()[1],
        )
        assert end_carried(()) == 0
        assert lives(ours)
        assert end_carried([first]) == 1
        assert is_reset(ours) and lives(others) and lives(own)
        assert end_carried([first, second]) == 1, "one is gone"
        assert is_reset(others) and lives(own)


@pytest.mark.parametrize(("client", "server"), [("10.9.0.2", "10.9.0.10"), ("fd00:9::2", "fd00:9::10")])
def test_the_leg_to_the_server_is_told_by_its_mark(client: str, server: str) -> None:
    """It has the client's address, as the client's own leg has on the other side."""
    family, level, option = socket.AF_INET, socket.IPPROTO_IP, _IP_TRANSPARENT
    if ":" in client:
        family, level, option = socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_TRANSPARENT
    with socket.socket(family) as listener, socket.socket(family) as leg:
        listener.bind((server, 0))
        listener.listen()
        leg.setsockopt(level, option, 1)
        leg.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_UPSTREAM)
        leg.bind((client, 0))
        leg.connect(listener.getsockname()[:2])
        (found,) = carried()
        assert not found.accepted
        assert (found.client, found.client_port) == (ip_address(client), leg.getsockname()[1])
        assert (found.server, found.server_port) == (ip_address(server), listener.getsockname()[1])


def test_an_ipv4_connection_of_an_ipv6_socket_is_one_of_ipv4() -> None:
    with socket.socket(socket.AF_INET6) as listener, socket.socket() as client:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        listener.bind(("::ffff:10.9.0.10", 0))
        listener.listen()
        client.connect(("10.9.0.10", listener.getsockname()[1]))
        with listener.accept()[0]:
            (found,) = carried()
            assert found.server == ip_address("10.9.0.10")
            assert end_carried([found]) == 1
            assert is_reset(client)
