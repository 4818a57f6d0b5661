"""A process called docker-proxy, as the kernel sees it connect. The real one: tests/e2e/test_agent_containers.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from lockgate.agent.playground import Namespace
from lockgate.policies.workload import IPAddress
from lockgate.tests.unit.redirect.programs import WORLD, Kernel, ingress, rule

CONNECT = """
import socket, sys
open("/proc/self/comm", "w").write(sys.argv[1])
try:
    socket.create_connection((sys.argv[2], int(sys.argv[3])), 0.3)
except OSError as error:
    print(type(error).__name__)
"""
NOT_LET = "PermissionError"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    try:
        made.inside(made.datapath.hold_published)
        yield made
    finally:
        made.close()


def connect(where: Namespace, address: IPAddress, port: int, name: str = "docker-proxy") -> str:
    return where.run([sys.executable, "-c", CONNECT, name, str(address), str(port)]).stdout.strip()


@pytest.mark.parametrize("version", [4, 6])
def test_only_where_anybody_may(kernel: Kernel, version: int) -> None:
    server = kernel.server.ipv4 if version == 4 else kernel.server.ipv6
    client = kernel.client.ipv4 if version == 4 else kernel.client.ipv6
    node = kernel.ground.node
    kernel.enforce(server=ingress(rule(None, 80), rule(None, 81, http=True), rule(9, 82)))
    assert connect(node, server, 80) != NOT_LET
    for port in (81, 82, 83):
        assert connect(node, server, port) == NOT_LET
        assert connect(node, server, port, "docker-proxies") != NOT_LET
        assert connect(node, client, port) != NOT_LET, "a policy that says nothing of who comes in"
    assert connect(node, WORLD, 83) != NOT_LET, "no endpoint"
    assert connect(kernel.outside, server, 83) != NOT_LET, "in another namespace"


def test_twice_and_no_more(kernel: Kernel) -> None:
    kernel.enforce(server=ingress())
    kernel.inside(kernel.datapath.hold_published)
    assert connect(kernel.ground.node, kernel.server.ipv4, 80) == NOT_LET
    kernel.datapath.free_published()
    assert connect(kernel.ground.node, kernel.server.ipv4, 80) != NOT_LET
    kernel.inside(kernel.datapath.hold_published)
