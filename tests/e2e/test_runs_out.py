"""What an agent and its Envoy need runs out while they run: what is denied stays denied, it is said, and it heals."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lockgate.tests.e2e.live_node import DENIED, DROPPED, EXAMPLES, GLANCE, OK, LiveNode, fetch, live_node
from lockgate.tests.scarcity import descriptors

BACKEND = (EXAMPLES / "allow-frontend-to-backend.yaml").read_text()
USERS, ADMIN = "/api/v1/users", "/api/v1/admin"


@pytest.fixture(scope="module")
def node() -> Iterator[LiveNode]:
    with live_node() as made:
        yield made


def still_denied(node: LiveNode) -> None:
    assert fetch(node.intruder, node.backend.ipv4, 8080, patience=GLANCE) == DROPPED
    assert fetch(node.frontend, node.api.ipv4, 80, ADMIN) == DENIED


@pytest.mark.parametrize("more", [0, 1, 2, 4])
def test_the_agents_descriptors(node: LiveNode, more: int) -> None:
    """Wherever the first call is that gets none."""
    assert node.agent is not None
    with descriptors(node.agent.pid, more):
        node.node.run(["ip", "link", "add", "news", "type", "dummy"])
        still_denied(node)
        node.write("allow-frontend-to-backend", BACKEND.replace("8080", "8081"))
        still_denied(node)
        node.node.run(["ip", "link", "del", "news"])
        still_denied(node)
    node.becomes(DROPPED, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.write("allow-frontend-to-backend", BACKEND)
    node.becomes(OK, lambda: fetch(node.frontend, node.backend.ipv4, 8080, patience=GLANCE))
    node.until("all is well", node.ok)
