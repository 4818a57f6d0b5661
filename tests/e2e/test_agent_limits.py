"""One pod cannot take all that the node's Envoy has: its neighbours are served while it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from lockgate.agent.playground import Pod
from lockgate.tests.e2e.live_node import CLOSED, DENIED, OK, Line, LiveNode, fetch, live_node

LIMIT = 20
USERS = "/api/v1/users"


@pytest.fixture(name="node", scope="module")
def node_with_a_limit() -> Iterator[LiveNode]:
    with live_node(start=False) as node:
        node.ground.pod("noisy", labels={"app": "frontend", "role": "frontend"})
        node.list_pods()
        config = node.folder / "config.yaml"
        config.write_text(f"connections_per_client: {LIMIT}\n")
        node.start_agent("--config", config)
        yield node


@pytest.fixture(name="noisy")
def the_noisy_neighbour(node: LiveNode) -> Pod:
    return next(pod for pod in node.ground.pods if pod.name == "noisy")


def opened(node: LiveNode, pod: Pod, ip: object) -> str:
    """A connection of its own; a refused one ends before or at its first request."""
    try:
        return fetch(pod, ip, 80, USERS)
    except ConnectionError:
        return CLOSED


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_a_pod_with_too_many_connections_is_refused_and_the_others_are_served(
    node: LiveNode, noisy: Pod, family: int
) -> None:
    api = node.api.ips[family]
    with ExitStack() as held:
        lines = [held.enter_context(Line(noisy, api, 80)) for _ in range(LIMIT)]
        assert {str(line.ask(USERS)) for line in lines} == {OK}
        refused = node.stat("lockgate_connections_refused$")
        seen = len(node.webs["api-server"].seen)
        for _ in range(5):
            assert opened(node, noisy, api) in (CLOSED, "refused")
        assert len(node.webs["api-server"].seen) == seen
        assert node.stat("lockgate_connections_refused$") == refused + 5
        # The victim is served, and what the noisy one has already goes on.
        for _ in range(5):
            assert fetch(node.frontend, api, 80, USERS) == OK
            assert fetch(node.frontend, api, 80, "/other") == DENIED
        assert {str(line.ask(USERS)) for line in lines} == {OK}
        # L4 is none of Envoy's business.
        assert fetch(noisy, node.backend.ips[family], 8080) == OK
        lines[0].__exit__(None, None, None)
        node.becomes(OK, lambda: opened(node, noisy, api))
    node.becomes(OK, lambda: opened(node, noisy, api))
