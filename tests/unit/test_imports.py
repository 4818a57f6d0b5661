"""What an agent that starts has no time to import."""

from __future__ import annotations

import subprocess
import sys

import pytest

UNUSED = ("pydantic", "grpclib", "h2")  # what Envoy's generated messages would bring along


@pytest.fixture(scope="module")
def imported() -> frozenset[str]:
    """Modules of an agent without a configuration file, when it begins to run."""
    shown = subprocess.run(
        [sys.executable, "-P", "-c", "import sys, lockgate.agent.node; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return frozenset(shown.stdout.split())


@pytest.mark.parametrize("package", UNUSED)
def test_an_agent_does_without(package: str, imported: frozenset[str]) -> None:
    assert "envoy_data_plane.envoy.config.core.v3" in imported
    assert package not in imported


def test_messages_can_be_imported_beside_the_packages_that_they_do_without() -> None:
    program = """
import pydantic, pydantic.dataclasses, grpclib
from lockgate.envoy.config.messages import core
import sys
assert sys.modules["pydantic"] is pydantic and sys.modules["grpclib"] is grpclib
assert sys.modules["pydantic.dataclasses"] is pydantic.dataclasses
address = core.Address(socket_address=core.SocketAddress(address="192.0.2.1", port_value=80))
assert core.Address.parse(bytes(address)) == address
"""
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
